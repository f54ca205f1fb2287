"""A trained adapter for engines that know nothing of Q-Adapter.

registry      the targets by name
arguments     the flags of each target
source        the artifact that is exported
single        where one set of weights can be the policy; how far the exported policy is from the exact one
card          the model card of an export
record        the same for programs, with a list of the files that were written
end_of_turn   where answers end, for engines that know the base's stop tokens alone
new_folder    an output folder that is written whole or not at all

evaluation    what was gained and kept, as a table for a card
training_data  on what it was trained, for a card

peft          a plain LoRA
merged        the LoRA folded into the base's weights
distilled     a plain LoRA trained to match the mixed policy
student       the model that is trained for it
gguf          the plain LoRA or the merged model for llama.cpp, by its own converter
vllm          a folder that vLLM serves with both policies
hub           the artifact itself, pushed to the hub

A target is a file of this package with one function `export`, an arguments dataclass and a line in the registry. The
registry and the arguments import no torch, so that the command line can list them at once.
"""

from .registry import TARGETS, Target

__all__ = ["TARGETS", "Target"]
