"""The pattern for usual VOC files takes what tools write, and says of it what the parser says."""

import time
from pathlib import Path

import pytest
from by_chance import WriterByChance

from detkit.data.formats import voc_xml
from detkit.data.formats.voc_layout import MOST_BYTES, usual_annotation
from detkit.data.records import ObjectRecord

FILE = Path("a.xml")
SHARED = Path(__file__).parents[2] / "shared" / "data"

# As each writes a file: indents, order, and what else stands there.
LABELIMG = """<annotation verified="yes">
\t<folder>photos</folder>
\t<filename>a.jpg</filename>
\t<path>C:\\my photos\\a.jpg</path>
\t<source>
\t\t<database>Unknown</database>
\t</source>
\t<size>
\t\t<width>640</width>
\t\t<height>480</height>
\t\t<depth>3</depth>
\t</size>
\t<segmented>0</segmented>
\t<object>
\t\t<name>cat</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>0</truncated>
\t\t<difficult>1</difficult>
\t\t<bndbox>
\t\t\t<xmin>11</xmin>
\t\t\t<ymin>22</ymin>
\t\t\t<xmax>33</xmax>
\t\t\t<ymax>44</ymax>
\t\t</bndbox>
\t</object>
</annotation>
"""
DEVKIT_2012 = """<annotation>
  <filename>a.jpg</filename>
  <folder>VOC2012</folder>
  <object>
    <name>person</name>
    <actions><jumping>0</jumping><walking>1</walking></actions>
    <bndbox><xmax>33</xmax><xmin>11</xmin><ymax>44.5</ymax><ymin>22</ymin></bndbox>
    <difficult>0</difficult>
    <pose>Left</pose>
    <part><name>head</name>
      <bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></part>
  </object>
  <segmented>0</segmented>
  <size><depth>3</depth><height>480</height><width>640</width></size>
  <source><database>The VOC2008 Database</database><image>flickr</image></source>
</annotation>"""
ROBOFLOW = """<annotation>
\t<folder></folder>
\t<filename>a_jpg.rf.0123.jpg</filename>
\t<path>a_jpg.rf.0123.jpg</path>
\t<source><database>roboflow.com</database></source>
\t<size><width>416</width><height>416</height><depth>3</depth></size>
\t<segmented>0</segmented>
\t<object><name>helmet</name><pose>Unspecified</pose><truncated>0</truncated>
\t\t<difficult>0</difficult><occluded>0</occluded>
\t\t<bndbox><xmin>9</xmin><xmax>99</xmax><ymin>8</ymin><ymax>88</ymax></bndbox>
\t</object>
</annotation>"""
CVAT = """<?xml version='1.0' encoding='utf-8'?>
<annotation>
  <folder/>
  <filename>a.jpg</filename>
  <source><database>Unknown</database><annotation>Unknown</annotation></source>
  <size><width>640</width><height>480</height><depth/></size>
  <segmented>0</segmented>
  <object>
    <name>Kötter</name>
    <occluded>0</occluded>
    <bndbox><xmin>1.5</xmin><ymin>2.25</ymin><xmax>30.0</xmax><ymax>40.75</ymax></bndbox>
    <attributes>
      <attribute><name>rotation</name><value>0.0</value></attribute>
    </attributes>
  </object>
</annotation>
"""
OURS = voc_xml.xml_text(
    "a.jpg",
    640,
    480,
    [
        ObjectRecord("cat", (10.0, 21.0, 33.0, 44.5), True),
        ObjectRecord("dog", (0.0, 0.0, 9.0, 9.0), machine_made=True, score=0.25),
    ],
)
LAYOUTS = {
    "LabelImg": LABELIMG,
    "devkit": DEVKIT_2012,
    "Roboflow": ROBOFLOW,
    "CVAT": CVAT,
    "detkit": OURS,
    "no object": "<annotation><filename>a.jpg</filename></annotation>",
    "nothing": "<annotation></annotation>",
    "Windows": LABELIMG.replace("\n", "\r\n"),
    "one line": LABELIMG.replace("\n", "").replace("\t", ""),
}


def by_pattern(data: bytes) -> voc_xml.Annotation | None:
    usual = usual_annotation(data, FILE)
    return None if usual is None else voc_xml.Annotation("annotation", *usual)


def by_parser(data: bytes) -> voc_xml.Annotation:
    return voc_xml._careful_annotation(data, FILE)


@pytest.mark.parametrize("tool", LAYOUTS)
def test_the_files_of_each_tool_are_read_by_the_pattern_as_by_the_parser(tool):
    data = LAYOUTS[tool].encode()
    assert by_pattern(data) == by_parser(data)


def test_what_the_pattern_reads_is_what_stands_there():
    found = by_pattern(DEVKIT_2012.encode())
    assert found is not None
    (one,) = found.objects
    assert (found.filename, found.width, found.height) == ("a.jpg", 640, 480)
    assert (one.name, one.box, one.difficult, one.line) == ("person", (10, 21, 33, 44.5), False, 4)
    assert one.stated == "xmin=11 ymin=22 xmax=33 ymax=44.5"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
@pytest.mark.parametrize("name", ["bccd", "raccoon", "voc100"])
def test_real_files_are_read_by_the_pattern_as_by_the_parser(name):
    for file in sorted((SHARED / name).rglob("*.xml"))[:200]:
        data = file.read_bytes()
        assert by_pattern(data) == by_parser(data), file


PLAIN_WORDS = ["cat", "a b", " x ", "1", "0", "-3", "2.50", "007", "\u00e4"]
ODD_WORDS = ["", "1e3", "nan", "1" * 16, "9" * 400, "\u2028", "\x85", "\x0b", "\x1f", "\ufffe"]
ODD_WORDS += ["\U0001f600", "a\r\nb", "\r", "\x00", "&amp;", "&x;", "&", "]]>", ">", "\ud7ff"]
ODD_WORDS += ["<!-- x -->", "<![CDATA[x]]>", "<?x y?>", "<x", "\n"]
SIDES = ["xmin", "ymin", "xmax", "ymax"]
OTHERS = ["part", "pose", "truncated", "source", "owner", "x.y", "object", "name", "bndbox", "size"]
OTHERS += ["difficult", "filename", "width", "height", "annotation", "xmin", "score", "-x", "a:b"]
STARTS = ["\n", "\ufeff", '<?xml version="1.0"?>', "<?xml version='1.0' encoding='UTF-8'?>\n"]
STARTS += ['<?xml version="1.0" encoding="us-ascii"?>', "<?xml version=\"1.0'?>", "<!-- -->"]
STARTS += ['<?xml version="1.0" encoding="utf-8" standalone="yes" ?>', '<?xml version="1.1"?>']
STARTS += ["<!DOCTYPE annotation>", '<!DOCTYPE annotation [<!ENTITY x "cat">]>']
STARTS += ['\n<?xml version="1.0"?>', '<?xml version="1.0" encoding="utf-8"?>\n']


class Writer(WriterByChance):
    """Writes annotations by chance, something in one of `calm` places not as it should be."""

    def space(self) -> str:
        odd = ["\r\n", "\r", "\u00a0", "\x0c", "x", "&#10;"]
        return self.rng.choice(odd) if self.is_odd() else self.rng.choice(["", "\n", "\n\t", " "])

    def element(self, tag: str, *inside: str) -> str:
        text = self.space().join(["", *inside, ""])
        if not text.strip().startswith("<"):
            text = f" {text} " if self.is_odd() else "".join(inside)
        whole = f"<{tag}>{text}</{tag}>"
        odd = [
            f"<{tag} >{text}</{tag}>",
            f"<{tag} a='b'>{text}</{tag}>",
            f"<{tag}>{text}",
            "",
            text,
        ]
        odd += [f"<{tag}>{text}</{tag} >", f"<{tag}/>", f"<{tag}>{text}</{tag}x>", whole * 2]
        return self.rng.choice(odd) if self.is_odd() else whole

    def word(self) -> str:
        return self.rng.choice(ODD_WORDS if self.is_odd() else PLAIN_WORDS)

    def other(self, depth: int = 0) -> str:
        tag = self.rng.choice(OTHERS if self.is_odd() else OTHERS[:6])
        inside = [self.other(depth + 1) for _ in range(self.rng.randrange(3))] if depth < 3 else []
        return self.element(tag, *(inside or [self.word()]))

    def shuffled(self, *parts: str) -> list[str]:
        others = [self.other() for _ in range(self.rng.randrange(3))]
        return self.rng.sample([*parts, *others], len(parts) + len(others))

    def object(self) -> str:
        sides = [self.element(side, str(self.rng.randrange(-9, 900))) for side in SIDES]
        parts = [self.element("name", self.word()), self.element("bndbox", *self.shuffled(*sides))]
        if self.rng.random() < 0.9:
            parts[1] = self.element("bndbox", *self.rng.sample(sides, 4))
        for tag in ("difficult", "machine_made", "score"):
            if self.rng.random() < 0.3:
                parts.append(self.element(tag, self.rng.choice(["0", "1", "1", "0.5"])))
        return self.element("object", *self.shuffled(*parts))

    def annotation(self) -> bytes:
        size = [self.element(side, str(self.rng.randrange(900))) for side in ("width", "height")]
        items = [self.object() for _ in range(self.rng.randrange(3))]
        items += [self.element("filename", self.word()), self.element("size", *size)]
        whole = self.element("annotation", *self.shuffled(*items))
        start = self.rng.choice(STARTS) if self.rng.random() < 0.2 else ""
        end = self.rng.choice(["\n", "<x/>", "<!-- -->", "\x00"]) if self.is_odd() else ""
        return f"{start}{whole}{end}".encode()

    def damaged(self, data: bytes) -> bytes:
        place = self.rng.randrange(len(data) + 1)
        words = [self.word(), self.element(self.rng.choice(OTHERS), self.word()), "<", ">", "/", ""]
        put = self.rng.choice([*map(str.encode, words), bytes([self.rng.randrange(256)])])
        return data[:place] + put + data[place + self.rng.choice([0, 0, 1, 1, 2, 9, 40]) :]


@pytest.mark.parametrize("calm", [10, 40, 150, 400])
def test_any_file_that_the_pattern_takes_says_what_the_parser_says(calm):
    writer = Writer(calm, calm)
    taken, objects = 0, 0
    for _ in range(500):
        data = writer.annotation()
        found = by_pattern(data)
        if found is not None:
            assert found == by_parser(data), data
            taken += 1
            objects += len(found.objects)
    if calm == 400:
        assert taken > 120 and objects > 60  # or nothing was held against the parser


def test_a_damaged_file_that_the_pattern_takes_says_what_the_parser_says():
    writer = Writer(0, 3)
    taken = 0
    for whole in (text.encode() for text in LAYOUTS.values()):
        for _ in range(200):
            data = writer.damaged(whole)
            found = by_pattern(data)
            if found is not None:
                assert found == by_parser(data), data
                taken += 1
    assert taken > 100


@pytest.mark.parametrize(
    ("whole", "part", "replacement"),
    [
        ("detkit", "<name>cat</name>", "<name>cat</name><name>dog</name>"),
        (
            "LabelImg",
            "<difficult>1</difficult>",
            "<difficult>1</difficult><difficult>0</difficult>",
        ),
        ("LabelImg", "<xmin>11</xmin>", "<xmin>11</xmin><xmin>12</xmin>"),
        ("LabelImg", "</bndbox>", "</bndbox><bndbox/>"),
        ("LabelImg", "<xmin>11</xmin>", ""),
        ("LabelImg", "11", "1e1"),
        ("LabelImg", "cat", " "),
        ("LabelImg", "cat", "&lt;"),
        ("LabelImg", "<size>", "<size></size><size>"),
        ("LabelImg", "640", "640.0"),
        ("LabelImg", "<pose>", '<pose a="b">'),
        ("LabelImg", "<pose>", "<!-- c --><pose>"),
        ("LabelImg", "</annotation>", ""),
        ("LabelImg", "</annotation>", "</annotation>x"),
        ("CVAT", "utf-8", "latin-1"),
        ("CVAT", "<folder/>", "<!DOCTYPE x [<!ENTITY a 'b'>]><folder/>"),
    ],
)
def test_what_is_odd_is_left_to_the_parser(whole, part, replacement):
    data = LAYOUTS[whole].replace(part, replacement, 1).encode()
    assert by_pattern(data) is None
    assert voc_xml.parse(data, FILE) == by_parser(data)


def test_no_file_is_taken_that_is_larger_than_the_limit():
    whole = OURS.encode()
    assert by_pattern(whole + b"\n" * (MOST_BYTES - len(whole))) is not None
    assert by_pattern(whole + b"\n" * (MOST_BYTES + 1 - len(whole))) is None


@pytest.mark.parametrize(
    "part",
    [
        "<t>",
        "<t></t>",
        "<t> </t> ",
        "<t><u></u><u></u></t>",
        "<t><u><v></v><v> </v></u></t>",
        "<object>",
        "<object><t><u></u></t>",
        "<object></object>",
        "<name>a</name>",
        "<bndbox><xmin>1</xmin>",
        " \n",
        "a",
        "<t>a",
    ],
)
@pytest.mark.parametrize("start", ["", "<object>", "<object><t>", "<t>", "<size>"])
def test_hostile_files_are_given_up_in_a_time_that_grows_with_their_length(start, part):
    def seconds(count):
        data = f"<annotation>{start}{part * count}".encode()
        began = time.process_time()
        assert usual_annotation(data, FILE) is None
        return time.process_time() - began

    count = 20_000 // len(part)
    short = min(seconds(count) for _ in range(3))
    long = min(seconds(8 * count) for _ in range(2))
    assert long < 20 * short + 0.05  # a square would take 64 times as long
