"""What vLLM imports, in its own processes: every module here needs vllm.

plugin         what the entry point calls in every process
configs        the exported folders' configs
engine_config  what is refused in the engine's options, and the options that the model needs
low_rank       a linear layer of vLLM with low-rank products on the adapter's half of its rows
models         the models
request_dial   follows the running batch and keeps the weights of its rows
"""
