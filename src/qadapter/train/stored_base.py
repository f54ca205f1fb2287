"""Whether an artifact will find its base again: by its name, and with the weights that it has in memory."""

from __future__ import annotations

import logging

from transformers import PreTrainedModel

from ..errors import ConfigError
from ..model.loading import DEFAULT_MODEL, default_model_folder

logger = logging.getLogger(__name__)


def check_stored_base(base: PreTrainedModel) -> None:
    """Compare a base with what lies where its name says, and warn of one without a name. Nothing is fetched.

    Raises:
        ConfigError: it was resized in memory: the base that is loaded by its name would be another one.
    """
    name = str(base.config.name_or_path or base.name_or_path or "")
    if not name:
        logger.warning(
            "the base model has no name (config.name_or_path): its artifact can be loaded with base=MODEL alone. To "
            "have it found, save the model to a folder and train on that."
        )
        return
    here, stored = getattr(base.config.get_text_config(), "vocab_size", None), _stored_vocab_size(name, base)
    if stored not in (None, here):
        raise ConfigError(
            f"the base has {here} tokens in memory and {stored} in {name!r}: its artifact could not be loaded again.",
            hint="save the resized base and its tokenizer (save_pretrained), and train on that folder",
        )


def _stored_vocab_size(name: str, base: PreTrainedModel) -> int | None:
    """As the config on this disk has it; None where that cannot be told."""
    folder = default_model_folder()
    source = str(folder) if name == DEFAULT_MODEL and folder.is_dir() else name
    revision = getattr(base.config, "_commit_hash", None)
    try:
        config = type(base.config).from_pretrained(source, revision=revision, local_files_only=True)
        return getattr(config.get_text_config(), "vocab_size", None)
    except Exception:  # whatever is wrong there, it is no reason not to train
        return None
