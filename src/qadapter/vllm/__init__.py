"""The two-policy mixture on vLLM: an out-of-tree model that vLLM finds by its entry point `vllm.general_plugins`.

Hidden states are [adapter; base]: 2T rows for T tokens. The linear layers run once on all of them, the low-rank
products are added to the first half, each half has an attention module and so a KV cache of its own, and the final
hidden states are mixed before the LM head. From there on everything is stock vLLM.

families        which model families can be served, and the names of our architectures
servable        what must be refused before a folder is written
served_policy   the section `qadapter` of the folder's config.json
packing         LoRA factors in the shape of vLLM's merged linear layers
dial_request    the values of one request, checked
row_mixtures    the weights (a, b) of the rows of the running batch, and of their tokens

These import vllm, and are imported by vLLM only:

plugin          what the entry point calls in every process of vLLM
engine_config   what must be refused in the engine's options
low_rank        a linear layer of vLLM with a low-rank product on the adapter's half
models          the models
request_dial    follows the running batch and keeps `row_mixtures` up to date
"""
