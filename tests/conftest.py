"""What holds for all tests."""

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator

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
