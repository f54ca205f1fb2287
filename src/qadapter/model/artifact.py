"""The artifact: a folder that holds everything needed to decode with a trained adapter but the base weights.

    DIR/qadapter_config.json   format version, base id + revision + fingerprint, tokenizer hash, all constants
    DIR/adapter/               standard PEFT files (adapter_config.json, adapter_model.safetensors)
    DIR/README.md              model card, without a pipeline tag
    DIR/tokenizer*.json ...    the tokenizer, as transformers saves it

The adapter lies in a subfolder on purpose: loading the root as an ordinary LoRA then fails loudly, where it would
otherwise sample softmax(z₁) in silence.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import transformers
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import __version__
from ..errors import ArtifactError, ConfigError, UnsupportedModelError
from .artifact_folder import (
    ADAPTER_FOLDER,
    CONFIG_FILE,
    FORMAT_VERSION,
    adapter_folder,
    check_same_base,
    local_folder,
    read_config,
    read_constants,
)
from .constants import QConstants
from .fingerprint import base_fingerprint, tokenizer_fingerprint
from .frozen_base import check_lm_head, freeze_base
from .loading import load_base
from .lora import check_lora, is_plain
from .model_card import is_hub_id, model_card
from .modeling import QAdapterForCausalLM
from .quantization import load_in_of

logger = transformers.logging.get_logger(__name__)


def save_artifact(
    model: QAdapterForCausalLM,
    directory: Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    state_dict: dict[str, Tensor] | None = None,
) -> None:
    """Write the artifact.

    Args:
        model: the model; weights are saved as they are, LoRA factors in their own dtype.
        directory: the folder; made if missing, files of an earlier artifact in it are replaced.
        tokenizer: saved too, and its hash recorded.
        state_dict: the adapter's factors by their names in `model.peft_model`, where the model's own are sharded.
    """
    directory.mkdir(parents=True, exist_ok=True)
    base = model.base
    config = {
        "format_version": FORMAT_VERSION,
        "qadapter_version": __version__,
        "base": {
            "name_or_path": base.config.name_or_path or base.name_or_path,
            "revision": getattr(base.config, "_commit_hash", None),
            "model_type": base.config.model_type,
            **model.base_fingerprint._asdict(),
            "load_in": load_in_of(base),
        },
        "tokenizer_sha256": None if tokenizer is None else tokenizer_fingerprint(tokenizer),
        "constants": dataclasses.asdict(model.constants),
    }
    # A folder without it is recognised as half-written, so it is the first to go and the last to come.
    (directory / CONFIG_FILE).unlink(missing_ok=True)
    # The embedding is the base's, also where a LoRA is on it: PEFT would save it whole then.
    model.peft_model.save_pretrained(
        directory / ADAPTER_FOLDER, safe_serialization=True, state_dict=state_dict, save_embedding_layers=False
    )
    # PEFT's own card of the subfolder would invite loading it as an ordinary LoRA.
    (directory / ADAPTER_FOLDER / "README.md").unlink(missing_ok=True)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
    (directory / "README.md").write_text(model_card(config), encoding="utf-8")
    (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_artifact(
    directory: str | Path,
    base: Any = None,
    *,
    trainable: bool = False,
    revision: str | None = None,
    **base_kwargs: Any,
) -> QAdapterForCausalLM:
    """Load an artifact onto its base model.

    Args:
        directory: the folder, or the id of a repository on the hub that holds one.
        base: the base model or where it lies; None takes the one named in the artifact. Checked either way.
        trainable: the LoRA factors, which are held in float32, get gradients.
        revision: revision of the artifact's repository on the hub.
        **base_kwargs: for `load_base`: dtype, load_in, device_map, attn_implementation, trust_remote_code.

    Returns:
        The model, in eval mode unless `trainable`.

    Raises:
        ArtifactError: a missing, damaged or newer artifact, one that belongs to another base (it says what differs), or
            one whose base lay in a folder that is not here.
        ConfigError: what `load_base` refuses.
    """
    directory = local_folder(directory, revision)
    config = read_config(directory)
    constants = read_constants(config, directory)
    if not isinstance(base, PreTrainedModel):
        saved = config["base"]
        base_kwargs.setdefault("revision", None if base else saved["revision"])
        try:
            base = load_base(base or saved["name_or_path"], **base_kwargs)
        except ConfigError as error:
            # An error without a cause is of the arguments, whatever the base.
            if base or is_hub_id(saved["name_or_path"]) or error.__cause__ is None:
                raise
            raise ArtifactError(
                f"{directory} was trained on {saved['name_or_path']!r}, by its name a folder where that was: {error}",
                hint="name a copy of that base: --base DIR, or base= in Python",
            ) from error
    elif base_kwargs:
        raise ConfigError(f"{sorted(base_kwargs)} apply to a base loaded by name, but a model object was given.")
    check_same_base(config, base.config, base_fingerprint(base), directory)
    _warn_of_other_quantization(config, base, directory)
    freeze_base(base)
    check_lm_head(base)

    peft_model = _read_adapter(directory, base, "default", trainable)
    model = QAdapterForCausalLM(base, constants, peft_model=peft_model)
    if not trainable:
        model.requires_grad_(False)
    return model.train(trainable)


def add_artifact(
    model: QAdapterForCausalLM, directory: str | Path, name: str, *, revision: str | None = None
) -> QConstants:
    """Load one more artifact of the same base into a model, for decoding: one copy of the base's weights serves both.

    The model's own policy stays as it is. `model.row_router` can give rows of a batch to the new adapter by its name.

    Args:
        model: a model that was loaded for decoding; mutated.
        directory: the folder, or the id of a repository on the hub that holds one.
        name: PEFT's name of the adapter: letters, digits and underscores, and not taken yet.
        revision: revision of the artifact's repository on the hub.

    Returns:
        The constants of the added adapter.

    Raises:
        ArtifactError: as in `load_artifact`.
        UnsupportedModelError: a LoRA whose rows cannot be told from another's, such as DoRA or one on the embedding.
    """
    directory = local_folder(directory, revision)
    config = read_config(directory)
    constants = read_constants(config, directory)
    check_same_base(config, model.base.config, model.base_fingerprint, directory)
    _read_adapter(directory, model.peft_model, name, trainable=False)
    check_lora(model.peft_model, name)
    model.row_router.attach()
    model.eval().requires_grad_(False)
    added = [layer for layer in model.row_router.layers if name in {*layer.lora_A, *layer.lora_embedding_A}]
    odd = next((layer for layer in added if not is_plain(layer)), None)
    if odd is not None:
        raise UnsupportedModelError(
            f"a LoRA layer of type {type(odd).__name__} is not a plain one and takes the first adapter only.",
            hint=f"serve {directory} by itself",
        )
    return constants


def _read_adapter(directory: Path, model: PreTrainedModel | PeftModel, name: str, trainable: bool) -> PeftModel:
    """PEFT's files of an artifact, onto a base or beside the adapters of a `PeftModel`."""
    adapter = adapter_folder(directory)
    try:
        if isinstance(model, PeftModel):
            model.load_adapter(str(adapter), name, is_trainable=trainable)
        else:
            config = PeftConfig.from_pretrained(str(adapter))
            model = PeftModel.from_pretrained(model, str(adapter), name, is_trainable=trainable, config=config)
        _check_all_weights_present(adapter, model, name)
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{adapter} cannot be read as a LoRA of this base: {error}") from error
    return model


def _warn_of_other_quantization(config: dict[str, Any], base: PreTrainedModel, directory: Path) -> None:
    trained, here = config["base"].get("load_in"), load_in_of(base)
    if trained != here:
        logger.warning(
            f"{directory} was trained on its base in {trained or 'full precision'} and is loaded on it in "
            f"{here or 'full precision'}: the policies differ by what that rounds. load_in decides it."
        )


def _check_all_weights_present(adapter: Path, peft_model: PeftModel, name: str) -> None:
    """PEFT only warns where weights are missing from the file; a half adapter would answer without a word."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
        # Adapters were saved with the base's embedding where a LoRA was on it.
        keys = [key for key in file.keys() if ".base_layer." not in key]  # noqa: SIM118
        stored = {key: tuple(file.get_slice(key).get_shape()) for key in keys}
    factors = get_peft_model_state_dict(peft_model, adapter_name=name, save_embedding_layers=False)
    expected = {key: tuple(value.shape) for key, value in factors.items()}
    if stored != expected:
        differing = sorted(key for key in stored.keys() | expected.keys() if stored.get(key) != expected.get(key))
        raise ArtifactError(
            f"{adapter / 'adapter_model.safetensors'} does not hold the adapter that its config describes; "
            f"{len(differing)} tensors are missing or differ, the first: {differing[0]}."
        )
