"""The frozen base with its LoRA adapter as one model object, and the artifact it is saved as.

constants         the constants of the method, checked
frozen_base       what a base must be like; its LM head
lora              LoRA on some rows of a batch: both policies in one pass
lora_options      which options of PEFT's LoRA are known to work
text_modules      which modules a pass over text calls: no others get the LoRA
shared_prefix     prompt, chosen and rejected in one row
response_states   which states of a batch of pairs count, in the order of the loss
preference_batch  the pairs as the backbone takes them
pair_loss         the loss of a batch of pairs, from the hidden states of both policies
dial              strength, alpha_0 and alpha_tilde at decode time, checked
caches            KV caches that count rows in pairs
positions         how many positions of a base are used
two_policies      base and adapter as one module, and the loss of pairs over them
modeling          QAdapterForCausalLM: the mixed policy as a causal LM, in forward() and generate()
plain_decoding    generate() without what a base's generation config recommends
fingerprint       which base and which tokenizer an adapter belongs to
artifact          saving and loading the folder
artifact_folder   what it says of itself, and whether a base and a tokenizer fit to it
quantization      a base in 8 or 4 bits
default_dtype     the dtype of the weights where none is named
loading           base models by name, and the default model without a model hub
reward_classifier reward models by name, and their rewards
reward_tokens     what a reward model is given to read
"""

from .artifact_folder import load_tokenizer
from .constants import QConstants
from .default_dtype import decoding_device, machine_dtype, training_device
from .loading import DEFAULT_MODEL, load_base, load_base_tokenizer
from .lora import Rows, lora_config
from .modeling import QAdapterForCausalLM
from .pair_loss import PreferenceOutput

__all__ = [
    "DEFAULT_MODEL",
    "PreferenceOutput",
    "QAdapterForCausalLM",
    "QConstants",
    "Rows",
    "decoding_device",
    "load_base",
    "load_base_tokenizer",
    "load_tokenizer",
    "lora_config",
    "machine_dtype",
    "training_device",
]
