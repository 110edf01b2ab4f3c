"""Tests of how a process gets its memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from detkit.machine import keep_freed_memory

PAGE_FAULTS = """
import resource, sys
import numpy as np
from detkit.machine import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for turn in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(64 * 2**20, 1, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_a_system_without_the_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_not_fetched_again_page_by_page() -> None:
    faults = {}
    for how in ("keep", "leave"):
        words = [sys.executable, "-c", PAGE_FAULTS, how]
        done = subprocess.run(words, capture_output=True, encoding="utf-8", check=False)
        if "AssertionError" in done.stderr:
            pytest.skip("no glibc")
        faults[how] = int(done.stdout)
    assert faults["keep"] < 100
    assert faults["keep"] < faults["leave"]
