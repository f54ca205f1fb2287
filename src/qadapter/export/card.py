"""What an export says of itself: the model card for people, and a record for programs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..model.model_card import constants_table, front_matter
from .record import RECORD_FILE

if TYPE_CHECKING:
    from .single import ExportDistance
    from .source import Source

OF_PACKAGE_COPY = (
    "It was trained on the copy of its base from the package index, whose weights were rounded to 4 bits: on the "
    "hub's, the policy differs by that."
)


def write_card(
    folder: Path,
    source: Source,
    *,
    target: str,
    strength: float,
    what: str,
    how_to_load: str,
    distance: ExportDistance | None,
    brings_base: bool,
    loaded_in: str | None = None,
    rounded: bool = False,
    dial: str = "is fixed at",
    library: str | None = None,
    **facts: Any,
) -> None:
    """Write README.md and the record.

    Args:
        folder: of the export.
        source: the artifact it was made from.
        target: the name of the target.
        strength: the dial at which it was made.
        what: the title's second half, such as "a plain LoRA".
        how_to_load: Markdown.
        distance: how far the exported policy is from the exact one; None where it is that policy.
        brings_base: whether the base's weights are part of the export; otherwise the reader brings those it names.
        loaded_in: `8bit` or `4bit` where the base was held so while the export was made.
        rounded: whether the file holds the weights in fewer digits than the policy was measured with.
        dial: what the strength is to the dial of the exported policy.
        library: the hub's name of the library that loads it.
        **facts: more entries of the record.
    """
    measured = f"Made and measured on the base in {loaded_in}, not in full precision" if loaded_in else "Measured"
    exactness = (
        "It is the exact policy that was trained, up to rounding."
        if distance is None
        else f"It is an approximation of the exact policy. {measured}: {distance}."
    )
    stored_in = source.config["base"].get("load_in")
    if stored_in:
        exactness = (
            f"It was trained on the base in {stored_in}; on the base in full precision, which this export is for, the "
            f"policy differs by what that rounds. Apart from this: {exactness[0].lower()}{exactness[1:]}"
        )
    if source.of_package_copy and not brings_base:
        exactness += " " + OF_PACKAGE_COPY
    card = f"""{front_matter(source.base_name, library=library, pipeline_tag="text-generation")}
# {source.base_name} customized with Q-Adapter: {what}

Made with `qadapter export --to {target} --strength {strength:g}` from an adapter that was trained with
[Q-Adapter](https://arxiv.org/abs/2407.03856) on preference pairs, on top of `{source.base_name}`. The dial {dial}
strength {strength:g} (0 is the base model at temperature α̃/α₀, 1 what was trained). {exactness}

{how_to_load}

{constants_table(source.config["constants"])}"""
    (folder / "README.md").write_text(card, encoding="utf-8")
    record = {
        "qadapter_version": __version__,
        "target": target,
        "strength": strength,
        "exact": distance is None and not source.departures(brings_base=brings_base, rounded=rounded),
        "distance": None if distance is None else distance._asdict(),
        "base": source.config["base"],
        "loaded_in": loaded_in,
        "constants": dataclasses.asdict(source.constants),
        **facts,
    }
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
