"""The few names of `import detkit`: what they are, and what importing them does not cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import detkit
from detkit.errors import DetkitError, UsageError


def test_every_name_of_the_package_is_there_and_the_same_as_where_it_is_defined() -> None:
    from detkit.inference.models import open_model
    from detkit.training.train import train

    assert detkit.open_model is open_model
    assert detkit.train is train
    assert set(detkit.__all__) <= set(dir(detkit))
    for name in detkit.__all__:
        assert callable(getattr(detkit, name)), name
    with pytest.raises(AttributeError, match="'detkit' has no attribute 'open_modle'"):
        detkit.open_modle  # noqa: B018


@pytest.mark.parametrize(
    "code", ["import detkit", "from detkit import open_dataset", "import detkit.inference.models"]
)
def test_importing_the_package_or_opening_a_folder_imports_no_torch(code: str) -> None:
    program = f"import sys; {code}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_model_is_begun_trained_opened_scored_and_used_from_python(tmp_path: Path) -> None:
    from detkit.data.demo.pictures import write_demo

    write_demo(tmp_path / "photos", num_images=12, seed=1)
    dataset = detkit.open_dataset(str(tmp_path / "photos"))
    settings = {"size": 96, "batch_size": "4", "nms_thresh": 0.4, "std": (0.2, 0.2, 0.2)}
    detector, recipe = detkit.new_model("ssd", dataset.class_names, settings=settings)
    assert (detector.config.nms_thresh, recipe.batch_size) == (0.4, 4)  # as in the shell, or typed
    assert detector.config.std == (0.2, 0.2, 0.2)
    options = detkit.RunOptions(max_steps=2, device="cpu")
    steps = list(
        detkit.train(detector, dataset.splits["train"], recipe, str(tmp_path / "run"), options)
    )
    assert len(steps) == 2
    model = detkit.open_model(tmp_path / "run", "cpu", ["nms_thresh=.3"])
    assert (model.config.nms_thresh, model.class_names) == (0.3, dataset.class_names)
    assert detkit.evaluate(model, dataset, "test").mean is not None
    (found,) = detkit.predict(model, [dataset.splits["test"][0].path])
    assert found.error is None
    assert len(found.labels) == len(found.boxes)


def test_names_of_classes_are_looked_at_before_anything_is_learnt(tmp_path: Path) -> None:
    from detkit.data.demo.pictures import write_demo

    for names in ([], ["car", "car"], [""], [1, 2]):
        with pytest.raises(UsageError, match="class_names="):
            detkit.new_model("ssd", names)  # type: ignore[arg-type]
    write_demo(tmp_path / "photos", num_images=6)
    records = detkit.open_dataset(tmp_path / "photos").splits["train"]
    detector, recipe = detkit.new_model("ssd", ["zebra"])
    with pytest.raises(DetkitError, match="the detector's classes are zebra, those of the"):
        next(iter(detkit.train(detector, records, recipe, tmp_path / "run")))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("patience", 0), ("devices", 0), ("nodes", 0), ("num_workers", -1)]
)
def test_numbers_that_no_run_can_have_are_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(UsageError, match=f"{name.replace('_', '-')} {value}: must be at least"):
        detkit.RunOptions(**{name: value}).validate()


def test_one_path_is_one_image(tmp_path: Path) -> None:
    detector, _ = detkit.new_model("ssd", ["car"], settings={"size": 96})
    (found,) = detkit.predict(detector, str(tmp_path / "none.jpg"))
    assert found.error is not None


def test_a_run_begun_in_python_says_how_python_goes_on_with_it(tmp_path: Path) -> None:
    from detkit.training.run_folder import RunFolder, stopped_at

    folder = RunFolder(tmp_path / "run")
    folder.begin(None)
    assert str(stopped_at(folder, 3)).endswith("go on with: RunOptions(resume=True)")
    (tmp_path / "run" / "config.json").write_text("{}")  # as the shell's command writes it
    assert f"go on with: detkit train --resume -o {tmp_path}" in str(stopped_at(folder, 3))
    folder.close()


def test_what_cannot_be_opened_or_begun_is_told_as_in_the_shell(tmp_path: Path) -> None:
    with pytest.raises(DetkitError, match=r"no such model file; did you mean ssd300-coco\?"):
        detkit.open_model("ssd300-cocoo")
    with pytest.raises(DetkitError, match="there is no such model file; `detkit train` writes"):
        detkit.open_model(tmp_path / "none.safetensors")
    with pytest.raises(UsageError, match="no such backend; did you mean ssd?"):
        detkit.new_model("sdd", ["car"])
    with pytest.raises(UsageError, match="did you mean nms_thresh?"):
        detkit.new_model("ssd", ["car"], settings={"nms_tresh": 0.5})
