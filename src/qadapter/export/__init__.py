"""A trained adapter for engines that know nothing of Q-Adapter.

registry      the targets by name
arguments     the flags of each target
source        the artifact that is exported
single        where one set of weights can be the policy; how far the exported policy is from the exact one
card          the model card of an export
new_folder    an output folder that is written whole or not at all

peft          a plain LoRA
merged        the LoRA folded into the base's weights
vllm          a folder that vLLM serves with both policies

A target is a file of this package with one function `export`, an arguments dataclass and a line in the registry. The
registry and the arguments import no torch, so that the command line can list them at once.
"""

from .registry import TARGETS, Target

__all__ = ["TARGETS", "Target"]
