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


def test_what_cannot_be_opened_or_begun_is_told_as_in_the_shell(tmp_path: Path) -> None:
    with pytest.raises(DetkitError, match=r"no such model file; did you mean ssd300-coco\?"):
        detkit.open_model("ssd300-cocoo")
    with pytest.raises(DetkitError, match="there is no such model file; `detkit train` writes"):
        detkit.open_model(tmp_path / "none.safetensors")
    with pytest.raises(UsageError, match="no such backend; did you mean ssd?"):
        detkit.new_model("sdd", ["car"])
    with pytest.raises(UsageError, match="did you mean nms_thresh?"):
        detkit.new_model("ssd", ["car"], settings={"nms_tresh": 0.5})
