"""The section `qadapter` of an exported folder's config.json: what the model must know besides weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..core import Mixture
from ..errors import ArtifactError, ConfigError
from ..model.constants import QConstants
from ..model.dial import check_mixture, checked_dial

SECTION = "qadapter"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class ServedPolicy:
    """The policy of one exported folder. Raises `ConfigError` where it makes no sense."""

    constants: QConstants
    """The constants it was trained with; `alpha_0` and `alpha_tilde` are the defaults of a request."""
    strength: float
    """η ≥ 0: the default of a request."""
    rank: int
    """Of every LoRA factor."""
    scaling: float
    """Factor on the product of the LoRA factors."""
    targets: tuple[str, ...]
    """The adapted projections, such as q_proj; the same in all layers, or absent from a layer."""
    tensors: int
    """How many LoRA factors the folder holds."""

    def __post_init__(self) -> None:
        checked_dial("strength", self.strength)
        if self.constants.alpha_0 == 0.0:
            raise ConfigError("with alpha_0 0 a request of strength 0 would leave no policy to sample from.")
        check_mixture(self.mixture())

    def mixture(self, **dials: float) -> Mixture:
        """The weights (a, b) of a request.

        Args:
            **dials: strength, alpha_0, alpha_tilde; what is absent takes its default.
        """
        return self.constants.mixture(**{"strength": self.strength, **dials})

    def section(self) -> dict[str, Any]:
        """What is written into config.json."""
        return {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}


def served_policy(section: Any) -> ServedPolicy:
    """Read the section again.

    Raises:
        ArtifactError: missing, damaged, or written by a newer version.
    """
    hint = "write the folder again with `qadapter export ADAPTER --to vllm`"
    if not isinstance(section, dict) or not isinstance(version := section.get("format_version"), int):
        raise ArtifactError(f"config.json has no section {SECTION!r} with a format_version.", hint=hint)
    if version > FORMAT_VERSION:
        raise ArtifactError(
            f"the folder has format version {version}; this release reads up to {FORMAT_VERSION}.",
            hint="pip install --upgrade qadapter",
        )
    fields = {name: value for name, value in section.items() if name != "format_version"}
    try:
        fields["constants"] = QConstants(**fields["constants"])
        fields["targets"] = tuple(fields["targets"])
        return ServedPolicy(**fields)
    except (KeyError, TypeError, ConfigError) as error:
        raise ArtifactError(f"the section {SECTION!r} of config.json is damaged: {error}", hint=hint) from error
