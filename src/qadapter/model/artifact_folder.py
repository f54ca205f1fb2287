"""The folder of an artifact: what it says of itself, and whether a base and a tokenizer fit to it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from ..errors import ArtifactError, ConfigError
from .constants import QConstants
from .fingerprint import BaseFingerprint, tokenizer_fingerprint
from .loading import DEFAULT_MODEL, PACKAGE_COPY_SHA256, default_model_folder, load_base_tokenizer

CONFIG_FILE = "qadapter_config.json"
ADAPTER_FOLDER = "adapter"
FORMAT_VERSION = 1


def adapter_folder(directory: Path) -> Path:
    """Where PEFT's files of an artifact lie. Raises `ArtifactError` where one is missing."""
    adapter = directory / ADAPTER_FOLDER
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        if not (adapter / file).is_file():
            raise ArtifactError(
                f"{adapter / file} is missing: the artifact is incomplete.", hint="copy the folder again"
            )
    return adapter


def read_config(directory: str | Path) -> dict[str, Any]:
    """The content of `qadapter_config.json`, checked for completeness and format.

    Raises:
        ArtifactError: no such file, not JSON, keys missing, or written by a newer version.
    """
    path = Path(directory) / CONFIG_FILE
    if not path.is_file():
        hint = "give the folder that `qadapter train --output-dir` wrote"
        if (Path(directory) / "adapter_config.json").is_file():
            hint = "this is an ordinary PEFT adapter; load it with peft.PeftModel"
        raise ArtifactError(f"{path} does not exist: {directory} is not a Q-Adapter artifact.", hint=hint)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is damaged: {error}") from error
    version = config.get("format_version") if isinstance(config, dict) else None
    if not isinstance(version, int):
        raise ArtifactError(f"{path} is damaged: it has no format_version.")
    if version > FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {version}; this release reads up to {FORMAT_VERSION}.",
            hint="pip install --upgrade qadapter",
        )
    missing = {"base", "tokenizer_sha256", "constants"} - config.keys()
    if missing:
        raise ArtifactError(f"{path} is damaged: {sorted(missing)} missing.")
    return config


def load_tokenizer(directory: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer an artifact was trained with; the base's own where the artifact holds none.

    Raises:
        ArtifactError: its hash is not the one recorded in the artifact.
    """
    directory = local_folder(directory)
    config = read_config(directory)
    if (directory / "tokenizer_config.json").is_file():
        try:
            tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, ImportError) as error:
            raise ArtifactError(f"the tokenizer in {directory} cannot be loaded: {error}") from error
        source = str(directory)
    else:
        source = config["base"]["name_or_path"]
        tokenizer = load_base_tokenizer(
            source, revision=config["base"]["revision"], trust_remote_code=trust_remote_code
        )
    check_tokenizer(config, tokenizer, source)
    return tokenizer


def check_tokenizer(config: dict[str, Any], tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    """Compare a tokenizer with the one recorded in an artifact's config.

    Raises:
        ArtifactError: the hashes differ.
    """
    expected = config["tokenizer_sha256"]
    if expected is not None and tokenizer_fingerprint(tokenizer) != expected:
        raise ArtifactError(
            f"the tokenizer of {source} is not the one the adapter was trained with: its vocabulary, special tokens or "
            "chat template differ.",
            hint="use the tokenizer saved in the artifact's folder",
        )


def local_folder(directory: str | Path, revision: str | None = None) -> Path:
    """An artifact's folder on this machine; one on the hub is fetched.

    Raises:
        ArtifactError: neither a folder nor a repository that can be reached.
    """
    path = Path(directory)
    # `runs/mine` looks like an id of the hub; where a folder `runs` is here, a typing error is the likelier reading.
    if path.exists() or str(directory).count("/") != 1 or str(directory).startswith((".", "/")) or path.parent.is_dir():
        return path
    try:
        return Path(snapshot_download(str(directory), revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise ArtifactError(
            f"{directory} is neither a local folder nor a repository that can be reached: {error}",
            hint="give the folder that `qadapter train --output-dir` wrote, or the id of a repository on the hub",
        ) from error


def adapter_file_sha256(directory: str | Path) -> str:
    """SHA-256 of the adapter's weights as they lie in an artifact's folder, whatever precision it is loaded in.

    Raises:
        ArtifactError: there are none.
    """
    with (adapter_folder(Path(directory)) / "adapter_model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


LATER_CONSTANTS = {"sft_coef": 0.0}
"""Constants of training that adapters were saved without before there was such a term, and the value without it."""


def read_constants(config: dict[str, Any], directory: Path) -> QConstants:
    """The constants in an artifact's config. Raises `ArtifactError` where some are missing, unknown or senseless."""
    fields = {field.name for field in dataclasses.fields(QConstants)}
    saved = config["constants"]
    if not isinstance(saved, dict) or saved.keys() | LATER_CONSTANTS.keys() != fields:
        wrong = sorted(fields ^ (saved.keys() | LATER_CONSTANTS)) if isinstance(saved, dict) else saved
        raise ArtifactError(f"{directory / CONFIG_FILE} is damaged: constants missing or unknown: {wrong}.")
    try:
        return QConstants(**{**LATER_CONSTANTS, **saved})
    except ConfigError as error:
        raise ArtifactError(f"{directory / CONFIG_FILE} is damaged: {error}") from error


def check_same_base(
    config: dict[str, Any], base_config: PretrainedConfig, fingerprint: BaseFingerprint, directory: str | Path
) -> None:
    """Compare a base with the one recorded in an artifact's config.

    Raises:
        ArtifactError: it is another one; it says what differs.
    """
    saved = config["base"]
    here = {"model_type": base_config.model_type, **fingerprint._asdict()}
    hint = f"load it on {saved.get('name_or_path')!r}"
    if PACKAGE_COPY_SHA256 in (saved.get("weights_sha256"), fingerprint.weights_sha256):
        hint = (
            f"one of them is {DEFAULT_MODEL} from the package index, whose weights were rounded to 4 bits and lie in "
            f"{default_model_folder()}; --base FOLDER names a copy of the other"
        )
    if base_config.dtype == torch.float16:
        hint += "; weights that are stored in float32 look like others once they are rounded to float16"
    for key, value in here.items():
        expected = saved.get(key)
        if expected is not None and value is not None and value != expected:
            raise ArtifactError(
                f"{directory} was trained on another base: {key} is {expected!r} in the artifact and {value!r} in "
                f"{base_config.name_or_path or 'the model that was given'}.",
                hint=hint,
            )
