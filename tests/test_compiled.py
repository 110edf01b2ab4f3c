"""The proposal code's compiler: what is said, and that it goes on where numba cannot."""

from __future__ import annotations

import errno
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
    for cached in (module._numba, module._warn_once, module._notice):
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
    module._notice.cache_clear()
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


inner = twice


def calls_another(x: int) -> int:
    return int(inner(x)) + 1


def broken(kind: str, folder: Path) -> None:
    """Break the files of numba's cache as a crash or an upgrade would."""
    for path in folder.rglob("*.nbi" if kind == "empty index" else "*.nbc"):
        content = path.read_bytes()
        path.write_bytes(
            {
                "empty index": b"",
                "code cut short": content[: len(content) // 2],
                "a module that is gone": b"\x80\x04cmodule_that_is_gone\nName\n.",
            }[kind]
        )


@pytest.mark.parametrize("kind", ["empty index", "code cut short", "a module that is gone"])
def test_broken_files_are_said_once_and_replaced(
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    for _ in range(2):  # into another process's files, as it were
        monkeypatch.setitem(globals(), "inner", compiled(twice))
        assert compiled(calls_another)(4) == 9
        assert not caplog.records
    broken(kind, tmp_path)
    inner = compiled(twice)
    monkeypatch.setitem(globals(), "inner", inner)
    assert inner(4) == 8 and compiled(calls_another)(4) == 9
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(tmp_path) in caplog.text and "broken" in caplog.text
    caplog.clear()
    module._warn_once.cache_clear()
    again = compiled(twice)
    assert again(4) == 8 and not caplog.records
    assert again.stats.cache_hits  # type: ignore[attr-defined]


def test_where_the_disk_is_full_it_is_said_once_and_the_code_runs_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(globals(), "inner", compiled(twice))
    outer = compiled(calls_another)

    def full(self: Path, target: Path) -> None:
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr("os.replace", full)
    assert outer(4) == 9 and outer(5) == 11
    assert outer.signatures  # type: ignore[attr-defined]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be kept there (File too large)" in caplog.text


def test_code_that_does_not_compile_is_no_matter_of_the_cache(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    with pytest.raises(numba.TypingError):
        compiled(twice)(None)  # type: ignore[arg-type]
    assert not caplog.records
