"""Who may import whom: the layers of the design, held by reading the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "detkit"

# A module may import from its own layer and from those below it. A folder's files have the
# folder's layer unless they are listed themselves.
LAYERS = {
    6: (
        "cli",
        "__main__",
    ),
    5: (
        "report",
        "proposals.source",
        "proposals.table",
        "proposals.making",
        "networks.precision",
        "data.sources",
        "data.image_names",
        "evaluation.evaluate",
        "evaluation.baseline",
        "evaluation.junit",
        "evaluation.misses",
        "evaluation.protocols",
        "evaluation.sizes",
        "inference.predict",
        "inference.onnx",
        "training.train",
        "training.trainer",
        "training.passes",
        "training.options",
        "training.progress",
        "training.schedule",
        "training.learner",
        "training.ema",
        "training.dataset",
        "training.loader",
        "training.validation",
        "training.saver",
        "training.run_folder",
        "training.run_log",
        "training.samples",
        "training.signals",
        "training.cpu_contention",
        "model_file",
        "comparison.table",
        "comparison.runs",
        "comparison.measure",
        "evaluation.gates",
        "evaluation.scores",
        "evaluation.pairing",
        "inference.reader",
        "training.resume",
        "inference.models",
    ),
    4: (
        "data",
        "detectors",
        "proposals",
    ),
    3: ("detector",),
    2: (
        "trace",
        "drawing",
        "predictions",
        "transforms.geometric",
        "transforms.preparation",
        "transforms.photometric",
        "transforms.mosaic",
        "networks.backbones",
        "networks.architectures",
        "networks.darknet",
        "networks.weights",
        "networks.necks",
        "networks.roi_pooling",
        "networks.rpn",
        "networks.yolo_heads",
        "networks.fold_norms",
        "evaluation.voc_map",
        "evaluation.coco_map",
        "evaluation.bootstrap",
        "evaluation.error_breakdown",
        "evaluation.proposal_recall",
        "networks.pretrained",
        "transforms.augmentation",
    ),
    1: (
        "geometry.anchors",
        "geometry.anchor_estimation",
        "geometry.matching",
        "geometry.nms",
        "networks.crops",
        "networks.svms",
        "networks.box_regression",
        "networks.truncated_svd",
        "evaluation.precision_recall",
    ),
    0: (
        "comparison",
        "training",
        "inference",
        "evaluation",
        "networks",
        "transforms",
        "geometry",
        "network_size",
        "structures",
        "config",
        "errors",
        "files",
        "stopwatch",
        "machine",
        "memory",
        "__init__",
        "text",
        "evaluation.iou",
    ),
}
LAYER = {name: layer for layer, names in LAYERS.items() for name in names}
# As the papers cite each other.
BACKENDS_THAT_BUILD_ON = {"faster_rcnn": {"fast_rcnn"}}
SHELL = {"typer", "rich", "click"}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


SOURCES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported_by(path: Path, *, at_once: bool = False) -> set[str]:
    """Return the dotted names a file imports: anywhere, or only those on being imported."""
    names: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names.add(str(node.module))
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def own_imports(name: str, *, at_once: bool = False) -> set[str]:
    """Return the modules of the package that a module imports."""
    found = set()
    for imported in imported_by(SOURCES[name], at_once=at_once):
        inside = imported.removeprefix("detkit.")
        if imported.startswith("detkit.") and inside in SOURCES and inside != name:
            found.add(inside)
    return found


def layer_of(name: str) -> int:
    """Return a module's layer; -1 for one that the table above does not know."""
    return LAYER.get(name, LAYER.get(name.partition(".")[0], -1))


@pytest.mark.parametrize("name", SOURCES)
def test_every_module_has_a_layer_and_imports_downwards_only(name: str) -> None:
    assert layer_of(name) >= 0, f"{name} is in no layer: add it to the table above"
    upwards = {other for other in own_imports(name) if layer_of(other) > layer_of(name)}
    assert not upwards, f"{name} (layer {layer_of(name)}) imports upwards: {sorted(upwards)}"


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


@pytest.mark.parametrize("name", [name for name in SOURCES if layer_of(name) < 6])
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


def test_files_of_the_package_are_named_by_nouns_that_mean_something() -> None:
    vague = {"utils", "util", "common", "core", "helpers", "manager", "misc", "base"}
    assert not vague & {part for name in SOURCES for part in name.split(".")}
