"""From a name, `module:function`, to the function."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import ConfigError

_FORM = "a function is named as module:function, such as my_checks:is_polite for is_polite in my_checks.py"


def load_function(name: str) -> Callable[..., Any]:
    """Import a function by name, from the installed packages or the current folder.

    The current folder is put behind all others on `sys.path` and stays there: the function may import its neighbours
    later, and none of them can take the place of an installed package.

    Args:
        name: module:function; the module may be dotted.

    Raises:
        ConfigError: another form, no such module or function (it names near ones), or the module fails to import.
    """
    module_name, colon, function_name = name.partition(":")
    names = [*module_name.split("."), function_name]
    if not colon or module_name.endswith(".py") or not all(part.isidentifier() for part in names):
        raise ConfigError(f"{name!r} names no function.", hint=_FORM)
    module = _import(module_name)
    found = getattr(module, function_name, None)
    if not callable(found):
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        is_what = "does not exist" if found is None else f"is no function but of type {type(found).__name__}"
        where = getattr(module, "__file__", None) or "built in"
        raise ConfigError(f"{function_name!r} in {module_name} ({where}) {is_what}.", _near(function_name, own))
    return found


def _import(name: str) -> ModuleType:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"the module {name!r} cannot be imported: {error}") from error
        absent = error.name
    except (Exception, SystemExit) as error:  # a module of the user's, or a script: it may raise whatever it likes
        raise ConfigError(f"the module {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    parent, dot, last = absent.rpartition(".")
    # What is no package has no path, and no modules in it; without a parent, None stands for everything on sys.path.
    places = getattr(importlib.import_module(parent), "__path__", []) if dot else None
    near = _near(last, [module.name for module in pkgutil.iter_modules(places)], prefix=parent + dot)
    raise ConfigError(
        f"there is no module {absent!r}, neither installed nor in {folder}.", near or "run from the folder it lies in"
    )


def _near(name: str, known: Iterable[str], prefix: str = "") -> str | None:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(prefix + other for other in near)}?" if near else None
