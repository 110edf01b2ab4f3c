"""What the server of `detkit label` answers, and what it refuses."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelling import Client, labelling, save
from PIL import Image

from detkit.data.images import read_reduced
from detkit.labelling.editor import SILENCE, Editors
from detkit.labelling.previews import Previews

ODD = ("<script>alert(1)</script>.png".replace("/", "_"), "a b#c%20d.png", "žluť 猫.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed, name in enumerate(["one.png", "two.jpg", "below/three.png"]):
        save(tmp_path / "photos" / name, seed=seed)
    return tmp_path / "photos"


@pytest.fixture
def client(photos: Path, tmp_path: Path) -> Iterator[Client]:
    with labelling(photos, tmp_path / "out", classes=["car", "dog"]) as client:
        yield client


def test_the_list_and_the_records_say_what_is_there(client: Client) -> None:
    listed = client.get("images")
    assert sorted(listed["order"]) == [1, 2, 3]
    assert {row[1] for row in listed["images"]} == {"one.png", "two.jpg", "below/three.png"}
    record = client.get("images/1")
    assert (record["width"], record["height"], record["revision"]) == (60, 40, 0)
    assert (record["state"], record["objects"], record["findings"]) == ("todo", [], [])
    state = client.get("state")
    assert (state["classes"], state["images"], state["done"]) == (["car", "dog"], 3, 0)
    assert state["model"] is None and state["training"] is None and not state["proposals"]


def test_without_the_token_there_is_nothing(client: Client) -> None:
    for path in ("/", "/state", "/wrong/state", client.token.rstrip("/"), "state", "//state"):
        status, _, body = client.raw("GET", path)
        assert status == 404 and list(json.loads(body)) == ["error"], path


def test_another_host_name_is_refused_also_with_the_token(client: Client) -> None:
    port = client.host.partition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1.evil:{port}", ""):
        assert client.raw("GET", f"{client.token}state", headers={"Host": host})[0] == 403, host
    for host in (f"localhost:{port}", f"LOCALHOST:{port}", client.host):
        assert client.raw("GET", f"{client.token}state", headers={"Host": host})[0] == 200, host


def test_a_request_of_another_page_is_refused(client: Client) -> None:
    port = client.host.partition(":")[2]
    for origin in (
        "http://evil.example",
        "null",
        "http://127.0.0.1:1",
        f"https://localhost:{port}",
    ):
        headers = {"Origin": origin, "Content-Type": "application/json"}
        path = f"{client.token}editor"
        assert client.raw("POST", path, b'{"editor": null}', headers)[0] == 403, origin
        assert client.raw("GET", f"{client.token}state", headers=headers)[0] == 403, origin
    own = {"Origin": f"http://{client.host}"}
    assert client.raw("GET", f"{client.token}state", headers=own)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "../state",
        "page/../server.py",
        "page/..%2fserver.py",
        "page/%2e%2e/server.py",
        "page//etc/passwd",
        "page/nothing.js",
        "images/0",
        "images/4",
        "images/-1",
        "images/1x",
        "images/%31",
        "images/1/nothing",
        "images/99999999999999999999",
        "images/１",
    ],
)
def test_a_path_that_is_no_address_is_404_as_json(client: Client, path: str) -> None:
    target = (client.token + path).encode("utf-8").decode("latin-1")
    connection_path = "".join(one if one.isascii() else f"%{ord(one):02X}" for one in target)
    status, headers, body = client.raw("GET", connection_path)
    assert status == 404 and list(json.loads(body)) == ["error"]
    assert headers["Content-Type"] == "application/json"


def test_methods_that_an_address_does_not_take_are_405_and_named(client: Client) -> None:
    for method, path in (
        *(("DELETE", "images/1"), ("PATCH", "state"), ("FOO", "state"), ("HEAD", "state")),
        *(("PUT", "state"), ("POST", "images/1"), ("GET", "editor"), ("PUT", "images/1/preview")),
    ):
        status, headers, _ = client.raw(method, client.token + path)
        assert status == 405 and headers["Allow"], (method, path)


def test_every_answer_has_the_headers_that_keep_foreign_pages_and_scripts_out(
    client: Client,
) -> None:
    for path in ("", "state", "images/1/preview?side=256", "nothing"):
        _, headers, _ = client.raw("GET", client.token + path)
        assert headers["Content-Security-Policy"].startswith("default-src 'self'")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"


def test_a_body_that_is_huge_broken_or_no_json_is_refused(client: Client) -> None:
    path, kind = f"{client.token}images/1", {"Content-Type": "application/json"}
    for body, headers, status in (
        (b"{", kind, 400),
        (b"[]", kind, 400),
        (b"\xff\xfe", kind, 400),
        (b"[" * 100_000, kind, 400),
        (b"1" * 10_000, kind, 400),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"{}", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (b"", {**kind, "Content-Length": str(1 << 40)}, 413),
        (b"", {**kind, "Content-Length": "-1"}, 411),
    ):
        assert client.raw("PUT", path, body, headers)[0] == status, body[:20]
    assert client.get("images/1")["revision"] == 0


@pytest.mark.parametrize(
    "row",
    [
        ("car", [1, 1, 1, 5]),
        ("car", [5, 1, 1, 5]),
        ("car", [-1, 0, 5, 5]),
        ("car", [0, 0, 61, 5]),
        ("car", [0, 0, 5]),
        ("car", [0, 0, 5, True]),
        ("car", [0, 0, 5, "5"]),
        ("car", [float("nan"), 0, 5, 5]),
        ("car", [0, 0, float("inf"), 5]),
        ("car", [0, 0, 10**400, 5]),
        ("car", None),
        ("cat", [0, 0, 5, 5]),
        (7, [0, 0, 5, 5]),
        (["car"], [0, 0, 5, 5]),
        {"label": "car", "box": [0, 0, 5, 5], "difficult": "yes"},
        {"label": "car", "box": [0, 0, 5, 5], "machine_made": True, "score": float("nan")},
        "car",
    ],
)
def test_a_box_that_is_no_box_is_400_and_changes_nothing(client: Client, row: object) -> None:
    status, answer = client.put(1, row)
    assert status == 400 and "object 1" in answer["error"]
    assert client.get("images/1")["objects"] == []


def test_more_objects_than_anybody_draws_are_400(client: Client) -> None:
    rows = [("car", [0, 0, 5, 5])] * 10_001
    assert client.put(1, *rows)[0] == 400


def test_a_state_that_its_objects_contradict_is_400(client: Client) -> None:
    box = ("car", [0, 0, 5, 5])
    assert client.put(1, box, state="empty")[0] == 400
    assert client.put(1, state="done")[0] == 400
    assert client.put(1, state="nothing")[0] == 400
    assert client.put(1, box, state="skipped")[0] == 200


def test_a_change_of_an_older_revision_is_409_and_says_what_is_there_now(client: Client) -> None:
    assert client.put(1, ("car", [1, 2, 3, 4.5]))[1] == {"revision": 1}
    status, answer = client.put(1, ("dog", [1, 2, 3, 4]), revision=0)
    assert status == 409
    assert answer["now"] == client.get("images/1")
    assert answer["now"]["objects"][0]["box"] == [1, 2, 3, 4.5]


def test_of_two_pages_one_may_write_until_the_other_takes_over(client: Client) -> None:
    _, first = client.ask("POST", "editor", {"editor": None})
    _, second = client.ask("POST", "editor", {"editor": None})
    assert (first["may_write"], second["may_write"]) == (True, False)
    assert first["editor"] != second["editor"]
    client.editor = second["editor"]
    assert client.put(1, ("car", [0, 0, 5, 5]))[0] == 423
    assert client.ask("POST", "classes", {"editor": second["editor"], "name": "cat"})[0] == 423
    _, taken = client.ask("POST", "editor", {"editor": second["editor"], "take": True})
    assert taken["may_write"]
    assert client.put(1, ("car", [0, 0, 5, 5]))[0] == 200
    _, again = client.ask("POST", "editor", {"editor": first["editor"]})
    assert not again["may_write"]


def test_a_page_that_is_silent_for_15_seconds_has_gone() -> None:
    now = [0.0]
    editors = Editors(lambda: now[0])
    first, may_write, _ = editors.greet(None, take=False)
    assert may_write
    now[0] = SILENCE - 1
    second, may_write, silent = editors.greet(None, take=False)
    assert not may_write and silent == SILENCE - 1
    now[0] = SILENCE + 1
    assert editors.greet(second, take=False)[1]
    assert not editors.may_write(first)


def test_a_new_class_is_plain_unique_and_kept(client: Client, tmp_path: Path) -> None:
    add = {"editor": "me"}
    for name in ("", "  ", "car", "a\nb", "\ud800", "x" * 101, None, 3):
        assert client.ask("POST", "classes", {**add, "name": name})[0] == 400, name
    status, answer = client.ask("POST", "classes", {**add, "name": " <b>猫</b> "})
    assert (status, answer["classes"]) == (200, ["car", "dog", "<b>猫</b>"])
    assert client.put(1, ("<b>猫</b>", [0, 0, 5, 5]))[0] == 200


def test_names_with_odd_signs_are_told_as_they_are(tmp_path: Path) -> None:
    for name in ODD:
        save(tmp_path / "photos" / name)
    with labelling(tmp_path / "photos", tmp_path / "out", classes=["a"]) as client:
        assert {row[1] for row in client.get("images")["images"]} == set(ODD)
        for number in (1, 2, 3):
            assert client.put(number, ("a", [0, 0, 5, 5]))[0] == 200
    held = {path.name for path in (tmp_path / "out" / "JPEGImages").iterdir()}
    assert held == set(ODD)


def test_an_image_that_exif_turns_has_its_upright_size_and_pixels(tmp_path: Path) -> None:
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, :30] = 255  # stored: white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # upright: turned clockwise, white on top
    (tmp_path / "photos").mkdir()
    Image.fromarray(pixels).save(tmp_path / "photos" / "a.jpg", exif=exif, quality=95)
    with labelling(tmp_path / "photos", tmp_path / "out", classes=["a"]) as client:
        record = client.get("images/1")
        assert (record["width"], record["height"]) == (20, 60)
        for part in ("preview?side=256", "tile?level=0&x=0&y=0"):
            _, _, jpeg = client.raw("GET", f"{client.token}images/1/{part}")
            seen = np.asarray(Image.open(io.BytesIO(jpeg)))
            assert seen.shape == (60, 20, 3)
            assert seen[:25].min() > 200 and seen[35:].max() < 60
        assert client.put(1, ("a", [0, 30, 20, 60]))[0] == 200


def test_a_broken_image_is_said_and_stops_nothing(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    cut = save(photos / "cut.jpg", 200, 200).read_bytes()
    (photos / "cut.jpg").write_bytes(cut[: len(cut) // 2])
    with labelling(photos, tmp_path / "out", classes=["a"]) as client:
        numbers = {row[1]: row[0] for row in client.get("images")["images"]}
        for name in ("broken.jpg", "cut.jpg"):
            record = client.get(f"images/{numbers[name]}")
            assert record["width"] is None
            assert [one["code"] for one in record["findings"]] == ["unreadable-image"]
            path = f"{client.token}images/{numbers[name]}/preview?side=256"
            assert client.raw("GET", path)[0] == 422
            assert client.put(numbers[name], ("a", [0, 0, 5, 5]))[0] == 400
            assert client.put(numbers[name], state="skipped")[0] == 200
        assert client.put(numbers["one.png"], ("a", [0, 0, 5, 5]))[0] == 200


def test_images_of_16_bits_and_of_grey_have_previews(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.full((30, 40), 40_000, np.uint16)).save(tmp_path / "photos" / "deep.png")
    Image.fromarray(np.full((30, 40), 90, np.uint8)).save(tmp_path / "photos" / "grey.png")
    with labelling(tmp_path / "photos", tmp_path / "out") as client:
        for number, level in ((1, 40_000 >> 8), (2, 90)):
            _, headers, jpeg = client.raw("GET", f"{client.token}images/{number}/preview?side=1024")
            assert headers["Content-Type"] == "image/jpeg"
            assert abs(int(np.asarray(Image.open(io.BytesIO(jpeg))).mean()) - level) <= 1


def test_tiles_put_together_are_the_image_at_each_level(tmp_path: Path) -> None:
    y, x = np.mgrid[:700, :1100]
    pixels = np.stack([x / 1100 * 255, y / 700 * 255, x * 0 + 128], axis=-1).astype(np.uint8)
    path = tmp_path / "big.png"
    Image.fromarray(pixels).save(path)
    previews = Previews()
    for level, (width, height) in ((0, (1100, 700)), (1, (550, 350)), (2, (275, 175))):
        whole = Image.new("RGB", (width, height))
        for row in range(2):
            for column in range(3):
                tile = previews.tile(path, level, column, row)
                if tile is not None:
                    whole.paste(Image.open(io.BytesIO(tile)), (512 * column, 512 * row))
        expected = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))
        assert np.abs(np.asarray(whole, int) - expected.astype(int)).max() <= 6
        assert previews.tile(path, level, 9, 0) is None


def test_a_preview_of_a_large_jpeg_has_the_side_asked_for_and_its_pixels(tmp_path: Path) -> None:
    y, x = np.mgrid[:2250, :3001]
    pixels = np.stack([x / 3001 * 255, y / 2250 * 255, x * 0], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "big.jpg", quality=95)
    for side, size in ((2048, (2048, 1535)), (1024, (1024, 768)), (256, (256, 192))):
        seen = Image.open(io.BytesIO(Previews().preview(tmp_path / "big.jpg", side)))
        assert seen.size == size
        expected = Image.fromarray(pixels).resize(size, Image.Resampling.BOX)
        assert np.abs(np.asarray(seen, int) - np.asarray(expected, int)).max() <= 8


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".gif"])
def test_an_image_without_a_reduced_form_is_decoded_once_for_all_its_previews(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    y, x = np.mgrid[:1200, :2100]
    pixels = np.stack([x / 2100 * 255, y / 1200 * 255, x * 0 + 99], axis=-1).astype(np.uint8)
    path = tmp_path / f"big{suffix}"
    Image.fromarray(pixels).save(path)
    decoded: list[Path] = []

    def read(path: Path, side: int) -> Any:
        decoded.append(path)
        time.sleep(0.1)  # so that all ask before the first has its answer
        return read_reduced(path, side)

    monkeypatch.setattr("detkit.labelling.previews.read_reduced", read)
    previews = Previews()
    with ThreadPoolExecutor(4) as pool:  # as the page asks, and what is prepared ahead
        sides = (256, 2048, 1024, 256)
        found = [*pool.map(lambda side: previews.preview(path, side), sides)]
    previews.preview(path, 1024)
    assert len(decoded) == 1
    for side, content in zip(sides, found, strict=True):
        size = (side, round(1200 * side / 2100))
        expected = Image.open(path).convert("RGB").resize(size, Image.Resampling.BOX)
        seen = Image.open(io.BytesIO(content))
        assert seen.size == size
        assert np.abs(np.asarray(seen, int) - np.asarray(expected, int)).max() <= 24
        assert np.abs(np.asarray(seen, int) - np.asarray(expected, int)).mean() <= 2


def test_pictures_asked_for_by_no_number_are_400_and_beyond_the_image_404(client: Client) -> None:
    for part in (
        "preview",
        "preview?side=100",
        "preview?side=1e3",
        "tile?level=0&x=-1&y=0",
        "tile",
    ):
        assert client.raw("GET", f"{client.token}images/1/{part}")[0] == 400, part
    for part in ("tile?level=0&x=1&y=0", "tile?level=99&x=0&y=0", "tile?level=0&x=0&y=99999999"):
        assert client.raw("GET", f"{client.token}images/1/{part}")[0] == 404, part


def test_ten_thousand_images_are_listed_in_a_moment(tmp_path: Path) -> None:
    content = save(tmp_path / "one.png", 8, 8).read_bytes()
    (tmp_path / "photos").mkdir()
    for number in range(10_000):
        (tmp_path / "photos" / f"{number:05d}.png").write_bytes(content)
    with labelling(tmp_path / "photos", tmp_path / "out") as client:
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            answer = client.get("images")
            seconds.append(time.perf_counter() - began)
        assert (len(answer["images"]), len(answer["order"])) == (10_000, 10_000)
        assert min(seconds) < 0.3


def test_photos_are_as_they_were(client: Client, photos: Path) -> None:
    def held() -> dict[str, tuple[str, int]]:
        files = (path for path in photos.rglob("*") if path.is_file())
        return {
            str(one): (hashlib.sha256(one.read_bytes()).hexdigest(), one.stat().st_mtime_ns)
            for one in files
        }

    before = held()
    for number in (1, 2, 3):
        client.put(number, ("car", [0, 0, 5, 5]))
        client.raw("GET", f"{client.token}images/{number}/preview?side=1024")
    client.put(1, state="skipped")
    assert held() == before
