"""Who may import whom: the table of folders, held by reading the source."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from detkit.detectors import load_backend
from detkit.errors import EXTRAS

PACKAGE = Path(__file__).parents[1] / "detkit"
PAGE = PACKAGE.parent / "docs" / "architecture.md"

# A folder, or a file at the top of the package, and what it may import besides itself. What all
# may import: `FREE`. `docs/architecture.md` has the same table as a picture.
FREE = {"structures", "errors", "text"}
DETECTOR = ("networks", "transforms", "geometry", "trace", "config", "stopwatch")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "__init__": ("data", "training", "inference", "evaluation"),
    "__main__": ("cli",),
    "structures": (),
    "errors": (),
    "text": (),
    "config": (),
    "files": (),
    "cache": (),
    "shards": ("files",),
    "machine": (),
    "stopwatch": (),
    "tethered": (),
    "drawing": (),
    "geometry": (),
    "predictions": ("files", "shards"),
    "trace": ("geometry", "config"),
    "networks": ("config", "geometry"),
    "transforms": ("config", "geometry"),
    "data": ("files", "machine", "cache"),
    "detector": DETECTOR,
    "detectors": (*DETECTOR, "detector", "machine"),
    "proposals": ("data", "config", "files", "cache", "shards"),
    "model_file": ("detector", "config", "files"),
    "training": (
        *("detector", "model_file", "networks.precision", "transforms", "geometry", "config"),
        *("proposals", "data", "drawing", "machine", "files"),
    ),
    "inference": (
        *("detectors", "detector", "model_file"),
        *("networks.precision", "networks.weights", "networks.pretrained"),
        "networks.winograd_matrices",
        *("geometry", "proposals", "predictions", "data", "machine", "config", "files"),
        "stopwatch",
    ),
    "evaluation": ("inference", "predictions", "data", "proposals", "trace"),
    "comparison": (
        *("evaluation", "inference", "predictions", "data", "files", "machine", "model_file"),
        *("training.run_folder", "training.run_log", "tethered"),
    ),
    "report": ("evaluation", "comparison", "data", "files"),
    "labelling": (
        *("data", "files", "cache", "machine", "predictions", "proposals", "config"),
        *("inference", "model_file", "tethered"),
    ),
    "cli": (
        *("report", "labelling", "comparison", "evaluation", "training", "inference"),
        *("proposals", "predictions", "data", "detectors", "detector", "model_file", "networks"),
        *("transforms", "geometry", "config", "files", "machine", "drawing", "stopwatch"),
        *("shards", "tethered"),
    ),
}
# Imported inside functions alone, since it brings torch.
LAZY = {
    "evaluation": {"inference"},
    "labelling": {"inference", "model_file", "proposals"},
    "__init__": set(MAY_IMPORT),
}
# Named in annotations alone.
TYPES_ONLY = {"evaluation": {"detector", "config"}}
# As the papers cite each other.
BACKENDS_THAT_BUILD_ON = {"faster_rcnn": {"fast_rcnn"}}
# Folders that hold more than a docstring in their `__init__.py`: the registry of backends, the
# opening of a folder, the command's app, and the package's own few names.
FULL_INITS = {"__init__", "detectors", "data", "cli"}
# Modules that may import an extra's packages at once: the network's and training's. All others
# are the light core, which imports them in functions or for types only.
HEAVY = (
    *("geometry", "networks", "transforms", "detector", "detectors", "model_file", "training"),
    *("trace", "proposals.table", "evaluation.misses", "inference.onnx_export"),
)
LIGHT = {"geometry.anchor_estimation", "geometry.nms_numpy", "geometry.tiles"}
LIGHT |= {"networks.winograd_matrices"}
LIGHT |= {"training.options", "training.run_folder"}
LIGHT |= {"training.samples", "training.schedule", "training.signals"}
SHELL = {"typer", "rich", "click"}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


SOURCES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name)


def imported_by(path: Path, *, at_once: bool = False, types: bool = True) -> set[str]:
    """Return the dotted names a file imports: anywhere, or only those on being imported."""
    names: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_annotations = {
        id(inner) for node in tree.body if for_types(node) for inner in ast.walk(node)
    }
    for node in tree.body if at_once else ast.walk(tree):
        if not types and id(node) in for_annotations:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names.add(str(node.module))
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def own_imports(name: str, *, at_once: bool = False, types: bool = True) -> set[str]:
    """Return the modules of the package that a module imports."""
    found = set()
    for imported in imported_by(SOURCES[name], at_once=at_once, types=types):
        inside = imported.removeprefix("detkit.")
        if imported.startswith("detkit.") and inside in SOURCES and inside != name:
            found.add(inside)
    return found


def part_of(name: str) -> str:
    return name.partition(".")[0]


def is_within(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def outside(name: str, *, at_once: bool = False, types: bool = True) -> set[str]:
    """Return what a module imports of other folders, package docstrings left out."""
    imports = own_imports(name, at_once=at_once, types=types)
    parents = {other.rpartition(".")[0] for other in imports}
    return {
        other
        for other in imports - parents
        if part_of(other) not in {part_of(name), *FREE} and not is_empty_init(other)
    }


def is_empty_init(name: str) -> bool:
    return SOURCES[name].name == "__init__.py" and name not in FULL_INITS


@pytest.mark.parametrize("name", SOURCES)
def test_every_module_imports_only_what_its_folder_may(name: str) -> None:
    part = part_of(name)
    assert part in MAY_IMPORT, f"{name}: {part} is not in the table above"
    allowed = (*MAY_IMPORT[part], *TYPES_ONLY.get(part, ()))
    wrong = sorted(other for other in outside(name) if not is_within(other, allowed))
    assert not wrong, f"{name}: {part} may not import {wrong}"
    forbidden = (set(TYPES_ONLY.get(part, ())), "but for types"), (LAZY.get(part, set()), "at once")
    for parts, how in forbidden:
        imports = outside(name, at_once=how == "at once", types=False)
        wrong = sorted(other for other in imports if part_of(other) in parts)
        assert not wrong, f"{name}: {part} may not import {wrong} {how}"


def test_the_page_on_the_architecture_has_the_same_table() -> None:
    told = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        row = re.fullmatch(r"\| `(\w+)(?:/|\.py)` \| [^|]+ \| ([^|;]+)(?:;[^|]*)? \|", line)
        if row:
            told[row[1]] = set(row[2].split(", "))
    parts = {name.partition(".")[0] for name in SOURCES if "." in name}
    assert parts <= set(told), "a folder is missing"
    assert (told.pop("cli"), told.pop("detectors")) == (
        {"everything"},
        {"detector", "what it may", "machine"},
    )
    for part, allowed in told.items():
        assert allowed - {"nothing more"} == set(MAY_IMPORT[part]), part


def test_no_folder_is_above_itself() -> None:
    above: dict[str, set[str]] = {part: set() for part in MAY_IMPORT}
    for name in SOURCES:
        above[part_of(name)] |= {part_of(other) for other in outside(name, types=False)}

    def visit(part: str, way: tuple[str, ...]) -> None:
        assert part not in way, " -> ".join((*way[way.index(part) :], part))
        for other in above[part]:
            visit(other, (*way, part))

    for part in above:
        visit(part, ())


def test_no_modules_need_each_other_to_be_imported() -> None:
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name in done:
            return
        for other in own_imports(name, at_once=True):
            visit(other, (*way, name))
        done.add(name)

    for name in SOURCES:
        visit(name, ())


def needed_at_once(name: str) -> set[str]:
    """Return the modules of the package imported by importing one, itself included."""
    done: set[str] = set()
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one not in done:
            done.add(one)
            waiting += own_imports(one, at_once=True, types=False)
    return done


@pytest.mark.parametrize(
    "name", [name for name in SOURCES if not is_within(name, HEAVY) or name in LIGHT]
)
def test_the_light_core_imports_packages_of_extras_in_functions_only(name: str) -> None:
    for needed in needed_at_once(name):
        imports = imported_by(SOURCES[needed], at_once=True, types=False)
        wrong = set(EXTRAS) & {imported.partition(".")[0] for imported in imports}
        assert not wrong, f"{name}: {needed} imports {wrong} at once"


@pytest.mark.parametrize(
    "name", [name for name in SOURCES if name.startswith(("data.", "predictions."))]
)
def test_labels_and_detections_need_no_torch_even_in_functions(name: str) -> None:
    imports = imported_by(SOURCES[name], types=False)
    assert not set(EXTRAS) & {imported.partition(".")[0] for imported in imports}


@pytest.mark.parametrize("name", [name for name in SOURCES if part_of(name) != "cli"])
def test_only_the_shell_draws_on_the_terminal(name: str) -> None:
    tops = {imported.partition(".")[0] for imported in imported_by(SOURCES[name])}
    assert not tops & SHELL
    for node in ast.walk(ast.parse(SOURCES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{name}:{node.lineno}: print()"


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("detectors.")])
def test_backends_do_not_import_each_other_but_as_the_papers_cite(name: str) -> None:
    file = name.partition(".")[2]
    others = {other.partition(".")[2] for other in own_imports(name) if "detectors." in other}
    assert others <= BACKENDS_THAT_BUILD_ON.get(file, set())


def test_every_file_of_detectors_is_a_backend_and_the_five_papers_are_there() -> None:
    held = {path.stem for path in (PACKAGE / "detectors").glob("*.py")} - {"__init__"}
    assert held >= {"rcnn", "fast_rcnn", "faster_rcnn", "ssd", "yolov1"}
    for name in held:
        assert load_backend(name.replace("_", "-")).paper, name  # else a part: it belongs elsewhere


@pytest.mark.parametrize("name", [name for name in SOURCES if SOURCES[name].name == "__init__.py"])
def test_a_folder_says_what_it_holds_and_no_more(name: str) -> None:
    body = ast.parse(SOURCES[name].read_text(encoding="utf-8")).body
    assert isinstance(body[0], ast.Expr), f"{name} has no docstring"
    assert len(body) == 1 or name in FULL_INITS, f"{name} holds more than a docstring"


def test_files_of_the_package_are_named_by_nouns_that_mean_something() -> None:
    vague = {"utils", "util", "common", "core", "helpers", "manager", "misc", "base"}
    assert not vague & {part for name in SOURCES for part in name.split(".")}
