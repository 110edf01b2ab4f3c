"""YOLO's rows read as columns, many files at once, are what the careful reader makes of each."""

from dataclasses import replace
from pathlib import Path

import pytest
from by_chance import WriterByChance
from labelled_folders import put

from detkit.data import open_dataset
from detkit.data.formats import yolo
from detkit.data.formats.yolo_rows import parse_row, plain_objects
from detkit.data.records import ObjectRecord

NAMES = {"0": "cat", "7": "dog", "12": "a b"}
PLAIN_ENDS = ["\n", "\r\n", " \n", " \r\n"]
ODD_ENDS = ["\r", "\n\n", "\t\n", "  \n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", " ", ""]
ODD_WORDS = [
    "-1",
    "1.5.2",
    ".",
    "-",
    "+",
    "e",
    "1e400",
    "-1e400",
    "nan",
    "inf",
    "x",
    "1_0",
    "\ufeff",
]
ODD_WORDS += ["\u0663", "0x1", "7" * 400, "1e", "--1", "1.e5", "\x00", "1\u00a02"]


def by_rows(data: bytes, size: tuple[int, int], file: Path) -> tuple[ObjectRecord, ...] | None:
    """Return the objects of a label file by a loop over its rows; None where one is bad."""
    objects: list[ObjectRecord] = []
    height, width = size
    for line, content in enumerate(data.decode("utf-8", "surrogateescape").splitlines(), 1):
        words = content.split()
        if not words:
            continue
        row = parse_row(words, keypoints=False)
        if row is None or len(words) != 5 or words[0] not in NAMES:
            return None
        _, (x1, y1, x2, y2), _ = row
        box = (x1 * width, y1 * height, x2 * width, y2 * height)
        name, number = NAMES[words[0]], len(objects) + 1
        objects.append(ObjectRecord(name, box, file=file, line=line, number=number))
    return tuple(objects)


class Writer(WriterByChance):
    """Writes label files by chance, something in one of `calm` places not as it should be."""

    def number(self) -> str:
        if self.is_odd():
            return self.rng.choice(ODD_WORDS)
        value = self.rng.choice([self.rng.random(), self.rng.uniform(-2, 900), 0.0, 1.0])
        digits = self.rng.randrange(22)
        forms = [
            f"{abs(value):.6f}",
            f"{abs(value):.{digits}f}",
            repr(value),
            f"{value:.{digits}e}",
        ]
        forms += [f"{abs(value):.6f}"[1:], f"{abs(value):.0f}.", str(self.rng.getrandbits(60))]
        return self.rng.choice(forms if self.rng.random() < 0.3 else forms[:2])

    def row(self) -> str:
        words = [self.rng.choice(["7 ", "00", "9", "0.0"] if self.is_odd() else list(NAMES))]
        words += [self.number() for _ in range(self.rng.randrange(9) if self.is_odd() else 4)]
        return self.rng.choice(["  ", "\t"] if self.is_odd() else [" "]).join(words)

    def file(self) -> bytes:
        rows = [self.row() for _ in range(self.rng.randrange(1, 6))]
        ends = [self.rng.choice(ODD_ENDS if self.is_odd() else PLAIN_ENDS) for _ in rows]
        start = self.rng.choice(["\ufeff", "\n", " "]) if self.is_odd() else ""
        return (start + "".join(map("".join, zip(rows, ends)))).encode()

    def damaged(self, data: bytes) -> bytes:
        place = self.rng.randrange(len(data) + 1)
        put = self.rng.choice([b" ", b"\n", b".", b"", b"-", bytes([self.rng.randrange(256)])])
        return data[:place] + put + data[place + self.rng.choice([0, 0, 1, 1, 2, 9, 40]) :]


@pytest.mark.parametrize(("calm", "least"), [(12, 100), (40, 400), (150, 1000), (10**9, 1500)])
def test_any_files_that_are_read_as_columns_say_what_their_rows_say(calm, least):
    writer = Writer(calm, calm)
    taken = 0
    for _ in range(200):
        files = [writer.file() for _ in range(writer.rng.randrange(1, 20))]
        files = [writer.damaged(one) if writer.is_odd() else one for one in files]
        sizes = [(writer.rng.randrange(1, 5000), writer.rng.randrange(1, 5000)) for _ in files]
        together = [(one, size, Path(f"{at}")) for at, (one, size) in enumerate(zip(files, sizes))]
        for one, found in zip(together, plain_objects(together, NAMES, is_made=False), strict=True):
            if found is not None:
                assert found == by_rows(*one), one
                assert all(type(side) is float for thing in found for side in thing.box)
                taken += 1
            else:
                assert calm < 10**9, one  # nothing is odd
    assert taken > least  # or nothing was held against the rows


@pytest.mark.parametrize("word", [*ODD_WORDS, "1e308", "9" * 18, "0." + "9" * 16, "5e-324"])
def test_a_file_with_an_odd_word_takes_no_other_file_with_it(word):
    good = b"0 0.5 0.25 1 .5\n12 1. 0 1 1\n"
    bad = f"0 0.5 0.5 0.5 0.5\n7 0.5 {word} 0.5 0.5\n".encode()
    files = [(data, (480, 640), Path("a.txt")) for data in (good, bad, good, good, bad, good, good)]
    found = plain_objects(files, NAMES, is_made=False)
    for one, objects in zip(files, found, strict=True):
        if one[0] is good or objects is not None:
            assert objects == by_rows(*one)


def test_objects_that_a_machine_made_are_marked_so():
    file = (b"0 0.5 0.5 0.5 0.5\n", (20, 40), Path("a.txt"))
    (found,) = plain_objects([file], NAMES, is_made=True)
    assert found == tuple(replace(one, machine_made=True) for one in by_rows(*file))


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("at_once", [1, 3, 128])
def test_a_folder_read_some_files_at_once_is_what_it_is_read_one_by_one(
    tmp_path, monkeypatch, at_once, lists
):
    writer = Writer(at_once, 15)
    files = {"data.yaml": "names: {0: cat, 7: dog, 12: a b}\ntrain: images\n"}
    for number in range(60):
        files[f"images/{number}.jpg"] = None
        if number % 7:
            files[f"labels/{number}.txt"] = writer.damaged(writer.file()).decode("latin-1")
    if lists:
        order = writer.rng.sample(range(60), 60)
        lines = [f"images/{number}.jpg" for number in [*order, order[0], 70, order[5]]]
        files["train.txt"] = "\n".join([*lines[:9], "../../x.jpg", "", *lines[9:]])
        files["data.yaml"] = files["data.yaml"].replace("images\n", "train.txt\n")
    put(tmp_path, files)
    (tmp_path / "images" / "5.jpg").write_bytes(b"no image")
    (tmp_path / "images" / "9.png").write_bytes((tmp_path / "images" / "8.jpg").read_bytes())
    (tmp_path / "labels" / "11.TXT").write_text("0 .5 .5 .5 .5\n")
    monkeypatch.setattr(yolo, "_AT_ONCE", at_once)
    found = open_dataset(tmp_path / "data.yaml")
    monkeypatch.setattr(yolo, "plain_objects", lambda files, *_, **__: [None] * len(files))
    careful = open_dataset(tmp_path / "data.yaml")
    assert found == careful
    assert len(found.findings) > 20
    assert sum(len(one.objects) for one in found.splits["train"]) > 40
