"""What an output_dir holds: an earlier run, its config, and files of others."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.whole_file import write_whole
from ..errors import ConfigError
from ..model.artifact_folder import ADAPTER_FOLDER, CONFIG_FILE
from ..train import RUN_CONFIG_FILE
from ..train.checkpoints import checkpoints
from .yaml_text import dump_yaml

EVAL_METRICS_FILE = "eval_metrics.json"
ANCHORS_FILE = "anchors.jsonl"
HELD_OUT_FILE = "heldout.jsonl"
_HEADER = "# The resolved arguments of this run"


def refuse_existing_run(output_dir: Path) -> None:
    """Raise `ConfigError` where the folder holds checkpoints or an artifact."""
    holds = [path.name for path in (*checkpoints(output_dir)[:1], output_dir / CONFIG_FILE) if path.exists()]
    if holds:
        raise ConfigError(
            f"{output_dir} already holds a run ({', '.join(holds)}).",
            hint="--resume continues it, --overwrite replaces it, or name another --output-dir",
        )
    if output_dir.exists() and not output_dir.is_dir():
        raise ConfigError(f"--output-dir {output_dir} is a file")


def refuse_files_of_others(output_dir: Path, in_use: Sequence[str | None], *, splits: bool) -> None:
    """Raise `ConfigError` where a new run would replace files in its folder that no earlier run wrote.

    Args:
        output_dir: the folder.
        in_use: files that the new run reads.
        splits: whether it will write held-out pairs.
    """
    config, held_out = output_dir / RUN_CONFIG_FILE, output_dir / HELD_OUT_FILE
    of_a_run = config.is_file() and config.read_bytes().startswith(_HEADER.encode())
    if config.exists() and not of_a_run:
        raise ConfigError(
            f"{config} was not written by a run, and the arguments of this one would replace it.",
            hint="rename it, or name another --output-dir",
        )
    if not splits or not held_out.exists():
        return
    if held_out.resolve() in _paths(in_use):
        raise ConfigError(
            f"{held_out} would be replaced by the held-out pairs of this run, which reads it.",
            hint="name another --output-dir",
        )
    if not of_a_run:
        raise ConfigError(
            f"{held_out} was not written by a run, and the held-out pairs of this one would replace it.",
            hint="rename it, name another --output-dir, or hold it out with --eval-file instead of --eval-split",
        )


def _paths(names: Sequence[str | None]) -> list[Path]:
    return [Path(name).resolve() for name in names if name]


def clear_run(output_dir: Path, *, in_use: Sequence[str | None] = ()) -> None:
    """Remove what an earlier run left: checkpoints, adapter, anchors, held-out pairs and metrics; and nothing else.

    The model card and the tokenizer are replaced when the new run is saved.

    Args:
        output_dir: the folder.
        in_use: files that the new run reads; they stay.
    """
    (output_dir / CONFIG_FILE).unlink(missing_ok=True)
    (output_dir / EVAL_METRICS_FILE).unlink(missing_ok=True)
    (output_dir / ANCHORS_FILE).unlink(missing_ok=True)
    held_out = output_dir / HELD_OUT_FILE
    if held_out.resolve() not in _paths(in_use):
        held_out.unlink(missing_ok=True)
    for folder in (*checkpoints(output_dir), output_dir / ADAPTER_FOLDER):
        if folder.is_dir():
            shutil.rmtree(folder)


def save_run_config(output_dir: Path, values: Mapping[str, Any]) -> None:
    """Write `config.yaml`, which `qadapter train --config` reads."""
    output_dir.mkdir(parents=True, exist_ok=True)
    header = f"{_HEADER}; `qadapter train --config` reads them again.\n"
    write_whole(output_dir / RUN_CONFIG_FILE, header + dump_yaml(values))


def refuse_contradictions(saved: Mapping[str, Any], now: Mapping[str, Any], may_change: set[str]) -> None:
    """Compare the arguments of a resumed run with the saved ones.

    Args:
        saved: those of the run that is resumed.
        now: those of this call, flags included.
        may_change: fields without influence on the trained weights.

    Raises:
        ConfigError: it names each argument that would change the result, with both values.
    """
    changed = [
        f"{name} (saved: {saved.get(name)}, now: {now.get(name)})"
        for name in sorted(saved.keys() | now.keys())
        if name not in may_change and saved.get(name) != now.get(name)
    ]
    if changed:
        raise ConfigError(
            f"--resume continues the same run, but these arguments differ: {'; '.join(changed)}.",
            hint="leave them out, or start another run in a new --output-dir",
        )
