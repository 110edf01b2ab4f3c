"""Tests of the cache of proposals: right, shared, bounded, and never in the way."""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from detkit.cache import ABANDONED, cache_folder
from detkit.errors import UsageError
from detkit.proposals.cache import ProposalCache, key_of
from detkit.structures import Proposals


def made(count: int = 100, seed: int = 0) -> Proposals:
    random = np.random.default_rng(seed)
    scores = np.sort(random.random(count))[::-1]
    return Proposals(random.random((count, 4)).astype(np.float32), scores.astype(np.float32))


def same(one: Proposals | None, other: Proposals) -> bool:
    return (
        one is not None
        and np.array_equal(one.boxes, other.boxes)
        and np.array_equal(one.scores, other.scores)
    )


def test_what_is_put_is_got_back(tmp_path: Path) -> None:
    cache = ProposalCache(tmp_path / "bïld")
    assert cache.get("ab12") is None
    cache.put("ab12", made())
    cache.put("ab13", made(0))
    assert same(cache.get("ab12"), made()) and same(
        ProposalCache(cache.folder.parent).get("ab13"), made(0)
    )
    assert cache.hits == 1


def test_the_key_changes_with_a_pixel_the_shape_and_each_parameter() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    other = image.copy()
    other[1, 2, 0] += 1
    parameters = {"method": "edge-boxes", "version": 1, "max_side": 500}
    keys = {
        key_of(image, parameters),
        key_of(other, parameters),
        key_of(image.reshape(4, 2, 3), parameters),
        *(key_of(image, {**parameters, name: 7}) for name in parameters),
    }
    assert len(keys) == 6
    turned = dict(reversed(parameters.items()))
    assert key_of(image[:, ::-1][:, ::-1], turned) == key_of(image, parameters)


@pytest.mark.parametrize("length", [0, 10, 200])
def test_a_file_cut_short_counts_as_none_and_is_written_anew(tmp_path: Path, length: int) -> None:
    cache = ProposalCache(tmp_path)
    cache.put("ab12", made())
    (path,) = tmp_path.rglob("*.npy")
    path.write_bytes(path.read_bytes()[:length])
    assert cache.get("ab12") is None
    cache.put("ab12", made())
    assert same(cache.get("ab12"), made())


def test_the_least_recently_used_go_when_the_bound_is_passed(tmp_path: Path) -> None:
    one = 128 + 100 * 20  # bytes: a header, and 5 floats a box
    cache = ProposalCache(tmp_path, max_bytes=10 * one)
    for number in range(10):
        cache.put(f"{number:02d}", made())
        os.utime(tmp_path / "proposals" / f"{number:02d}" / f"{number:02d}.npy", (number, number))
    assert cache.get("00") is not None  # used just now
    cache.put("10", made())
    held = [number for number in range(11) if cache.get(f"{number:02d}") is not None]
    assert held == [0, 3, 4, 5, 6, 7, 8, 9, 10]  # 9 of 10, so that there is room again
    assert cache.trim() == 9 * one
    assert "of at most" in cache.size_text()


def test_a_lower_bound_holds_without_anything_being_written(tmp_path: Path) -> None:
    for number in range(10):
        ProposalCache(tmp_path).put(f"{number:02d}", made())
    told = ProposalCache(tmp_path, max_bytes=10_740).size_text()
    assert told == f"{tmp_path / 'proposals'}: 0.0 MiB of at most 1e-05 GiB"
    assert len(list(tmp_path.rglob("*.npy"))) == 4  # of 2128 bytes each, at most .9 of the bound
    ProposalCache(tmp_path, max_bytes=0).size_text()
    assert len(list(tmp_path.rglob("*.npy"))) == 4


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    cache = ProposalCache(tmp_path)
    cache.put("ab12", made())
    old, new = (tmp_path / "proposals" / "ab" / name for name in ("a.partial", "b.partial"))
    for path in (old, new):
        path.write_bytes(b"cut")
    past = old.stat().st_mtime - 2 * ABANDONED
    os.utime(old, (past, past))
    cache.trim()
    assert not old.exists() and new.exists()


def write_and_read(folder: Path) -> bool:
    cache = ProposalCache(folder, max_bytes=30_000)  # room for a dozen of them
    for number in range(60):
        key = f"{number % 20:02d}"
        found = cache.get(key)
        if found is not None and not same(found, made(seed=number % 20)):
            return False
        cache.put(key, made(seed=number % 20))
    return True


def test_threads_and_processes_share_a_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with ThreadPoolExecutor(3) as threads, context.Pool(2) as processes:
        answers = [processes.apply_async(write_and_read, (tmp_path,)) for _ in range(2)]
        assert all(threads.map(write_and_read, [tmp_path] * 3))
        assert all(answer.get(60) for answer in answers)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_folder_that_cannot_be_written_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "proposals").write_text("a file in the way", encoding="utf-8")
    cache = ProposalCache(tmp_path)
    for _ in range(3):
        cache.put("ab12", made())
        assert cache.get("ab12") is None
    assert len(caplog.records) == 1
    assert "not kept" in caplog.text and "DETKIT_CACHE" in caplog.text


def test_a_full_disk_is_said_once_and_leaves_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    cache = ProposalCache(tmp_path)
    cache.put("ab12", made())
    cache.put("cd12", made())
    assert caplog.text.count("No space left on device") == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_folder_is_the_platforms_unless_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DETKIT_CACHE", raising=False)
    if sys.platform.startswith("linux"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_folder() == tmp_path / "xdg" / "detkit"
    monkeypatch.setenv("DETKIT_CACHE", str(tmp_path / "mine"))
    assert ProposalCache().folder == tmp_path / "mine" / "proposals"


def test_the_bound_can_be_set_and_nothing_is_kept_at_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETKIT_CACHE_GIB", "0.5")
    assert ProposalCache(tmp_path).max_bytes == 2**29
    monkeypatch.setenv("DETKIT_CACHE_GIB", "0")
    ProposalCache(tmp_path / "none").put("ab12", made())
    assert not (tmp_path / "none").exists()
    monkeypatch.setenv("DETKIT_CACHE_GIB", "much")
    with pytest.raises(UsageError, match="DETKIT_CACHE_GIB=much: expected a size in GiB"):
        ProposalCache(tmp_path)
