"""What holds for all tests."""

import atexit
import os
import shutil
import signal
import tempfile

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
