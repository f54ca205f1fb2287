"""Which checkpoints an output_dir holds, and which of them were written to their end."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from ..errors import ConfigError
from ..model.artifact_folder import CONFIG_FILE

logger = logging.getLogger(__name__)


def checkpoints(output_dir: Path) -> list[Path]:
    """The folders checkpoint-N, the latest first, complete or not."""
    found = {
        int(match[1]): path
        for path in output_dir.glob("checkpoint-*")
        if path.is_dir() and (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    }
    return [found[step] for step in sorted(found, reverse=True)]


def last_complete_checkpoint(output_dir: Path) -> Path:
    """The checkpoint to resume from. Later ones that were not written to their end are named in a warning.

    Raises:
        ConfigError: there is none.
    """
    incomplete: list[str] = []
    for checkpoint in checkpoints(output_dir):
        problem = _missing(checkpoint)
        if problem is None:
            return checkpoint
        logger.warning("%s is incomplete (%s): skipped.", checkpoint, problem)
        incomplete.append(checkpoint.name)
    found = f"only incomplete ones: {', '.join(incomplete)}" if incomplete else "none was written"
    raise ConfigError(
        f"nothing to resume: {output_dir} has no complete checkpoint ({found}).",
        hint="start anew, without --resume"
        + (" and with --overwrite" if incomplete else "")
        + " (in Python: without resume_from_checkpoint)",
    )


def check_complete(checkpoint: Path) -> None:
    """Raises ConfigError where a checkpoint that was named is missing or was not written to its end."""
    problem = _missing(checkpoint) if checkpoint.is_dir() else "there is no such folder"
    if problem is not None:
        others = ", ".join(str(one) for one in checkpoints(checkpoint.parent) if _missing(one) is None)
        raise ConfigError(
            f"cannot resume from {checkpoint}: {problem}.",
            hint=f"one of {others}" if others else f"start anew: {checkpoint.parent} has no complete checkpoint",
        )


def _missing(checkpoint: Path) -> str | None:
    """What keeps a checkpoint from being complete. The Trainer writes trainer_state.json last."""
    for name in (CONFIG_FILE, "trainer_state.json"):
        if not (checkpoint / name).is_file():
            return f"no {name}"
        try:
            json.loads((checkpoint / name).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError):
            return f"{name} is damaged"
    return None if any(checkpoint.rglob("*optim*")) else "no state of the optimizer"
