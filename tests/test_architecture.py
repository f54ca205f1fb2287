"""The layers of the package: imports never point back up, and nothing optional is imported at the top."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "qadapter"
# Lower layers first. A module may import from its own layer and from those before it.
LAYERS = [
    "errors",
    "core",
    "data",
    "model",
    "train",
    "generate",
    "baselines",
    "evaluate",
    "compare",
    "vllm",
    "export",
    "demo",
    "serve",
    "cli",
]
OPTIONAL = {
    *("trl", "gguf", "matplotlib", "lm_eval", "vllm", "gradio", "fastapi", "uvicorn", "bitsandbytes", "wandb"),
    *("tensorboard", "deepspeed"),
}
MODULES = sorted(ROOT.rglob("*.py"))
# Packages that are nothing without their extra: each is imported lazily as a whole.
EXTRAS = (ROOT / "serve" / "api", ROOT / "vllm" / "engine")


def imports(path: Path) -> list[tuple[str, bool]]:
    """(absolute module name, whether at the top level) of every import in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ["qadapter", *path.relative_to(ROOT).parts[:-1]]
    found = []
    for node in ast.walk(tree):
        top = node in tree.body
        if isinstance(node, ast.Import):
            found += [(alias.name, top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            found.append((".".join([*parents, *([node.module] if node.module else [])]), top))
    return found


def needs_extra(path: Path) -> bool:
    return any(extra in path.parents for extra in EXTRAS)


def layer(parts: tuple[str, ...]) -> str | None:
    name = parts[0].removesuffix(".py")
    return name if name in LAYERS else None


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_never_point_up(path: Path) -> None:
    mine = layer(path.relative_to(ROOT).parts)
    if mine is None:
        return
    for name, _ in imports(path):
        parts = tuple(name.split("."))
        if parts[0] == "qadapter" and len(parts) > 1 and (theirs := layer(parts[1:])):
            assert LAYERS.index(theirs) <= LAYERS.index(mine), f"{path.name} ({mine}) imports {name}"


def test_every_module_belongs_to_a_layer() -> None:
    known = {*LAYERS, "__init__", "__main__"}
    assert {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in MODULES} == known


def test_core_knows_torch_alone() -> None:
    for path in (ROOT / "core").glob("*.py"):
        for name, _ in imports(path):
            assert name.split(".")[0] in {"torch", "typing", "__future__", "qadapter"}, f"{path.name} imports {name}"


def test_optional_packages_are_imported_lazily() -> None:
    for path in MODULES:
        for name, top in imports(path):
            lazy = not top or needs_extra(path)
            assert lazy or name.split(".")[0] not in OPTIONAL, f"{path.name} imports {name} at its top"
            whole = name.startswith(("qadapter.serve.api", "qadapter.vllm.engine"))
            assert lazy or not whole, f"{path.name} imports {name} at its top"


def test_every_module_imports_with_required_dependencies_only() -> None:
    names = [
        "qadapter." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in MODULES
        if path.name != "__main__.py" and path != ROOT / "__init__.py" and not needs_extra(path)
    ]
    code = (
        "import sys, importlib\n"
        f"for name in {sorted(OPTIONAL)}: sys.modules[name] = None\n"
        f"for name in {names}: importlib.import_module(name)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


def test_the_public_names_resolve() -> None:
    qadapter = importlib.import_module("qadapter")
    for name in qadapter.__all__:
        assert getattr(qadapter, name).__name__ == name


def test_no_module_is_a_drawer() -> None:
    assert not {path.stem for path in MODULES} & {"utils", "helpers", "misc", "common"}
