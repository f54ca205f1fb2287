"""The policy itself, without what its base's generation config recommends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import GenerationConfig

from .modeling import QAdapterForCausalLM


@contextmanager
def without_recommended_decoding(model: QAdapterForCausalLM) -> Iterator[None]:
    """Inside, `generate` does what its call says and nothing else. Other threads' calls of `generate` wait meanwhile.

    A base's generation config may name a repetition penalty, a min_p and more of the kind, and transformers fills in
    from it what a call leaves out: the answers would then be those of another policy than the one that was trained and
    is measured, and of another one than the server's.

    Args:
        model: its generation config is put back, also after an exception.
    """
    # The lock that generate() takes. Outside of it two threads would each see what the other has put there: one of them
    # would decode with the recommendation, and put the plain config back as if it were the model's own.
    with model.row_router.lock:
        recommended = model.generation_config
        model.generation_config = GenerationConfig(
            bos_token_id=recommended.bos_token_id, eos_token_id=recommended.eos_token_id
        )
        try:
            yield
        finally:
            model.generation_config = recommended
