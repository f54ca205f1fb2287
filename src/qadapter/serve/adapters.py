"""Several artifacts of one base, under the names by which requests ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..core import Mixture
from ..errors import ArtifactError, ConfigError
from ..model import QAdapterForCausalLM, QConstants, load_tokenizer
from ..model.artifact import add_artifact
from ..model.artifact_folder import local_folder, read_config
from ..model.dial import check_mixture
from ..model.fingerprint import tokenizer_fingerprint
from .engine import Policy


@dataclass(frozen=True)
class ServedPolicy:
    """One name that requests can ask for."""

    name: str
    adapter: str | None
    """PEFT's name of the adapter; None for the base itself."""
    constants: QConstants | None
    """Of the adapter; None for the base."""
    directory: Path | None
    """The artifact's folder; None for the base."""

    def policy(
        self, strength: float | None = None, alpha_0: float | None = None, alpha_tilde: float | None = None
    ) -> Policy:
        """The policy at a dial; None is 1 for the strength, and what was trained for the others.

        Raises:
            ConfigError: a dial on the base, which has none, or one that leaves no policy or gives extreme weights.
        """
        if self.adapter is None or self.constants is None:
            dials = {"strength": strength, "alpha_0": alpha_0, "alpha_tilde": alpha_tilde}
            turned = [name for name, value in dials.items() if value is not None]
            if turned:
                raise ConfigError(f"{turned[0]} has no meaning for {self.name!r}, the base model without an adapter.")
            return Policy("", Mixture(0.0, 1.0))
        mixture = self.constants.mixture(1.0 if strength is None else strength, alpha_0, alpha_tilde)
        check_mixture(mixture)
        return Policy(self.adapter, mixture)


@dataclass(frozen=True)
class ServedModel:
    """A base with its adapters."""

    model: QAdapterForCausalLM
    tokenizer: PreTrainedTokenizerBase
    policies: dict[str, ServedPolicy]
    """By name: the adapters in the order in which they were given, then the base."""


def load_adapters(specs: Sequence[str], base: Any = None, **base_kwargs: Any) -> ServedModel:
    """Load artifacts onto one copy of their base.

    Args:
        specs: `NAME=DIR` or `DIR` (named after its folder), or the id of a repository on the hub in place of DIR.
        base: the base model or where it lies; None takes the one named in the first artifact. Checked.
        **base_kwargs: for `load_base`, such as dtype.

    Raises:
        ArtifactError: an artifact that is damaged, or that was trained on another base or tokenizer than the first.
        ConfigError: two adapters with one name.
    """
    named: dict[str, Path] = {}
    for name, place in map(parse_spec, specs):
        if name in named:
            raise ConfigError(
                f"two adapters are called {name!r}: {named[name]} and {place}.", hint="name them: NAME=DIR"
            )
        named[name] = local_folder(place)
    (first, directory), *others = named.items()
    tokenizer = load_tokenizer(directory, trust_remote_code=base_kwargs.get("trust_remote_code", False))
    _refuse_other_tokenizers(named, first, tokenizer_fingerprint(tokenizer))
    model = QAdapterForCausalLM.from_pretrained(directory, base, **base_kwargs)
    active = model.peft_model.active_adapter
    policies = {first: ServedPolicy(first, active, model.constants, directory)}
    for number, (name, directory) in enumerate(others, start=1):
        adapter = f"adapter_{number}"
        constants = add_artifact(model, directory, adapter)
        policies[name] = ServedPolicy(name, adapter, constants, directory)
    name = base_name(model)
    if name in policies:
        raise ConfigError(f"an adapter is called {name!r}, like the base model.", hint="name it: NAME=DIR")
    policies[name] = ServedPolicy(name, None, None, None)
    if torch.cuda.is_available():
        model.to("cuda")
    return ServedModel(model, tokenizer, policies)


def _refuse_other_tokenizers(named: dict[str, Path], first: str, fingerprint: str) -> None:
    """Before the weights are loaded: a server has one tokenizer and one chat template, those of the first."""
    for name, directory in named.items():
        if read_config(directory)["tokenizer_sha256"] not in (None, fingerprint):
            raise ArtifactError(
                f"{name!r} ({directory}) was trained with another tokenizer or chat template than {first!r} "
                f"({named[first]}); those that are served together share them.",
                hint=f"serve {name!r} by itself",
            )


def parse_spec(spec: str) -> tuple[str, str]:
    """Name and folder of `NAME=DIR` or `DIR`.

    Raises:
        ConfigError: an empty name or folder.
    """
    name, equals, directory = spec.partition("=")
    if not equals or Path(spec).is_dir():  # the folders of `compare` have equals signs in their names
        name, directory = Path(spec).resolve().name, spec
    if not name or not directory:
        raise ConfigError(f"an adapter is given as NAME=DIR or DIR, got {spec!r}")
    return name, directory


def base_name(model: QAdapterForCausalLM) -> str:
    """The base's id on the hub; of a local folder its name alone, for the path is nobody's business."""
    name = str(model.base.config.name_or_path)
    return Path(name).name if Path(name).is_dir() else name or type(model.base).__name__
