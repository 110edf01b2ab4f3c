"""What holds for all tests."""

import atexit
import os
import shutil
import tempfile

from hypothesis import settings

# No test reads or fills the user's own cache.
os.environ["DETKIT_CACHE"] = tempfile.mkdtemp(prefix="detkit-tests-")

atexit.register(shutil.rmtree, os.environ["DETKIT_CACHE"], ignore_errors=True)

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("detkit", deadline=None)
settings.load_profile("detkit")
