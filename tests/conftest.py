"""What holds for all tests."""

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Page, find_chromium, open_page
from hypothesis import settings

# No test reads or fills the user's own cache.
os.environ["DETKIT_CACHE"] = tempfile.mkdtemp(prefix="detkit-tests-")

atexit.register(shutil.rmtree, os.environ["DETKIT_CACHE"], ignore_errors=True)

# A shell without job control starts what it puts into the background deaf to Ctrl-C, which some
# tests send; whoever they start would be, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("detkit", deadline=None)
settings.load_profile("detkit")


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    """Yield a tab of headless Chromium, one browser for all tests of a file."""
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium here ($DETKIT_CHROMIUM names one)")
    with open_page(chromium) as page:
        yield page


@pytest.fixture(scope="module")
def untrained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `demo`, of NUM_IMAGES, and `m.safetensors`, which has learnt nothing."""
    import torch

    from detkit.data.demo.pictures import write_demo
    from detkit.detectors.ssd import SSD, SSDConfig
    from detkit.model_file import save_model

    folder = tmp_path_factory.mktemp("shäres")
    write_demo(folder / "demo", num_images=request.module.NUM_IMAGES)
    torch.manual_seed(0)
    save_model(folder / "m.safetensors", SSD(SSDConfig(size=64), ["balloon", "car", "sheep"]))
    return folder


@pytest.fixture
def beside_the_untrained(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stand in that folder; what a test writes goes to `out`."""
    monkeypatch.chdir(untrained)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    Path("out").mkdir()
    yield
    shutil.rmtree("out")
