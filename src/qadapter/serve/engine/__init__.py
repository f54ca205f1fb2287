"""Answers of mixed policies, in batches that requests join and leave. Torch and transformers; no HTTP.

request        what is asked for, and the events that answer it
scheduler      the bounded queue, deadlines, cancellation
prefill        reading a prompt in chunks
slots          who decodes, and in which rows
kv_rows        keys and values of rows of different lengths
masks          what each row may look at; which models that fits
probe          whether a model reads rows together as each alone
step           one pass over rows of both policies, and their mixture
sampling       the next token of each row
choice         one answer while it is written
detokenizer    text from tokens
stop_strings   where an answer ends
engine         the thread that does all this
token_view     what both policies thought of each token of an answer
"""

from .engine import Engine, EngineLimits
from .request import Delta, Event, Failed, FinishReason, Policy, Request, Sampling, TokenLogprob
from .scheduler import RefusedError

__all__ = [
    "Delta",
    "Engine",
    "EngineLimits",
    "Event",
    "Failed",
    "FinishReason",
    "Policy",
    "RefusedError",
    "Request",
    "Sampling",
    "TokenLogprob",
]
