"""On what an adapter was trained, for its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError
from ..train import RUN_CONFIG_FILE
from .source import Source

# Of a run's arguments: what a reader needs to judge or repeat it. Local paths of the trainer are not his business.
_TOLD = (
    *("preset", "num_train_epochs", "max_steps", "per_device_train_batch_size", "pairs_per_step"),
    *("learning_rate", "max_length", "anchors", "lora_r", "lora_alpha", "seed", "dtype", "load_in"),
)


def data_section(source: Source, told: str | None) -> str:
    """What the pairs were, and how it was trained on them.

    Args:
        source: the artifact.
        told: the user's words; default the train file in the run's saved arguments, by its name alone.

    Returns:
        Markdown with its heading.

    Raises:
        ConfigError: neither is there.
    """
    run = _run_arguments(source.directory / RUN_CONFIG_FILE)
    file = run.get("train_file")
    if told is None and file is None:
        raise ConfigError(
            f"{source.directory} does not say on what it was trained (it has no {RUN_CONFIG_FILE}), and a card must.",
            hint='--data "what the preference pairs are, and where they come from"',
        )
    # A path of this machine says nothing elsewhere; a data set's id on the hub does.
    name = str(file) if file is None or _is_data_set_id(str(file)) else Path(str(file)).name
    held_out = run.get("eval_split")
    lines = ["## Data", "", f"Preference pairs: {told or f'`{name}`'}"]
    if told is None and held_out is not None:
        lines[-1] += f", of which {held_out} ({'a share' if held_out < 1 else 'pairs'}) were held out"
    table = [f"| `{key}` | {run[key]} |" for key in _TOLD if run.get(key) is not None]
    return "\n".join([*lines, "", *(["| argument | value |", "|---|---|", *table, ""] if table else [])])


def _run_arguments(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return content if isinstance(content, dict) else {}


def _is_data_set_id(name: str) -> bool:
    return name.count("/") == 1 and not Path(name).suffix and not Path(name).exists()
