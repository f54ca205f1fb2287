"""What stands for the source of a checker: what Python reads of it, so that a comment more changes no job."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

from ..baselines.content import content_of
from ..baselines.shared_file import digest_of

_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def source_of(module: str) -> Any:
    """A digest of the module's syntax tree without comments, layout and docstrings; None where there is no module.

    Docstrings count in a module that mentions `__doc__`. What is no Python source counts by its bytes.

    Args:
        module: its name; it is found, and not imported (the packages around it are).
    """
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        return None
    if not found.origin.endswith(".py"):
        return content_of(found.origin)
    source = Path(found.origin).read_bytes()
    tree = ast.parse(source)
    if b"__doc__" not in source:
        for node in ast.walk(tree):
            if isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
                del node.body[0]
    return digest_of(_as_json(tree))


def _as_json(node: Any) -> Any:
    """Instead of `ast.dump`, whose text differs between releases of Python by fields that are empty."""
    if isinstance(node, ast.AST):
        filled = {name: value for name, value in ast.iter_fields(node) if value not in (None, [])}
        return [type(node).__name__, {name: _as_json(value) for name, value in filled.items()}]
    return [_as_json(one) for one in node] if isinstance(node, list) else repr(node)
