"""What holds for all tests."""

import os
import tempfile

from hypothesis import settings

# No test reads or fills the user's own cache.
os.environ["DETKIT_CACHE"] = tempfile.mkdtemp(prefix="detkit-tests-")

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("detkit", deadline=None)
settings.load_profile("detkit")
