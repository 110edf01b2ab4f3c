"""The proposal code's compiler: what is said, and that it goes on where numba cannot."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numba
import numba.core.caching
import pytest

from detkit.proposals import compiled as module
from detkit.proposals.compiled import compiled, first_call_notice


@pytest.fixture(autouse=True)
def _a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what was said before."""
    for cached in (module._numba, module._warn_once, module.first_call_notice):
        cached.cache_clear()


def twice(x: int) -> int:
    return x + x


def test_where_no_folder_is_writable_it_is_said_once_and_the_code_is_compiled_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_place(*words: object) -> None:
        raise PermissionError("read-only")

    for locator in numba.core.caching.CacheImpl._locator_classes:
        monkeypatch.setattr(locator, "ensure_cache_path", no_place)
    fast, again = compiled(twice), compiled(twice)
    assert fast(4) == again(4) == 8
    assert fast.signatures  # type: ignore[attr-defined]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "NUMBA_CACHE_DIR" in caplog.text


def test_without_a_numba_that_works_plain_python_runs_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    assert compiled(twice) is twice
    assert compiled(twice) is twice
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "plain Python" in caplog.text
    first_call_notice(twice, 3)
    assert len(caplog.records) == 1


def test_the_first_call_says_that_it_compiles_and_later_processes_do_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    fast = compiled(twice)
    first_call_notice(fast, 3)
    first_call_notice(fast, 3)
    assert [record.message for record in caplog.records] == [
        "compiling the proposal code once, about 3 s"
    ]
    assert fast(4) == 8
    caplog.clear()
    first_call_notice.cache_clear()
    first_call_notice(compiled(twice), 3)
    assert not caplog.records


def test_code_that_cannot_be_kept_is_announced_in_each_process(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    kept_nowhere = numba.njit(twice)
    first_call_notice(kept_nowhere, 3)
    assert [record.message for record in caplog.records] == [
        "compiling the proposal code for this process, about 3 s"
    ]
