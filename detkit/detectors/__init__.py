"""The backends: one paper, one file. A new file here is a new backend; nothing else changes."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import pydoc
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from detkit.errors import DetkitError, UsageError
from detkit.text import nearest_hint

if TYPE_CHECKING:
    from types import ModuleType

    from detkit.detector import Detector

_plugins: dict[str, type[Detector]] = {}


def backend_names() -> list[str]:
    """Return the names that `--model` takes, without importing any backend."""
    files = [module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)]
    return sorted({*files, *_plugins})


def synopsis(name: str) -> str:
    """Return the first line of a backend's file, which is not imported: that takes PyTorch.

    "" for a backend that is not one of ours, as a plugin is.
    """
    path = Path(__file__).with_name(f"{name.replace('-', '_')}.py")
    return (pydoc.synopsis(str(path)) or "") if path.is_file() else ""


def load_backend(name: str) -> type[Detector]:
    """Return the detector class of a backend.

    Raises UsageError for an unknown name, naming the nearest one.
    """
    if name in _plugins:
        return _plugins[name]
    if name not in backend_names():
        hint = nearest_hint(name, backend_names(), f"choose from {', '.join(backend_names())}")
        raise UsageError(f"--model {name}: no such backend; {hint}")
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    return _detector_in(module)


def add_plugin(path_or_module: str) -> str:
    """Import a module (dotted name or .py file), make its detector a backend; return its name.

    Raises DetkitError when there is no such file, or its code fails, UsageError when there is no
    such module or it defines no single detector.
    """
    path = Path(path_or_module)
    try:
        if path.suffix == ".py":
            spec = importlib.util.spec_from_file_location(path.stem, path)
            if spec is None or spec.loader is None or not path.is_file():
                raise DetkitError(f"--plugin {path}: no such file")
            module = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = module
            spec.loader.exec_module(module)
            # Processes that are spawned (macOS, Windows) import it by name, along this path.
            folder = str(path.absolute().parent)
            if folder not in sys.path:
                sys.path.append(folder)
        elif path.is_file():
            raise UsageError(f"--plugin {path}: not a Python file (.py)")
        elif not all(part.isidentifier() for part in path_or_module.split(".")):
            raise UsageError(f"--plugin {path_or_module}: neither a Python file (.py) nor a module")
        else:
            module = importlib.import_module(path_or_module)
    except ImportError as error:
        raise UsageError(f"--plugin {path_or_module}: cannot be imported: {error}") from error
    except DetkitError:
        raise
    except Exception as error:
        raise DetkitError(
            f"--plugin {path_or_module}: ended with {type(error).__name__}: {error}; mend it "
            "(--debug shows where)"
        ) from error
    backend = _detector_in(module)
    _plugins[backend.name] = backend
    return backend.name


def _detector_in(module: ModuleType) -> type[Detector]:
    """Return the one concrete detector class that a module defines."""
    from detkit.detector import Detector

    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Detector)
        and value.__module__ == module.__name__
        and not getattr(value, "__abstractmethods__", None)
    ]
    if len(found) != 1:
        raise DetkitError(f"{module.__name__}: expected one Detector class, found {len(found)}")
    return found[0]
