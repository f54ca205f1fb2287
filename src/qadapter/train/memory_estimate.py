"""How much memory a batch takes, from the longest pair alone, and the error for one that does not fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from ..errors import BatchTooLargeError
from .arguments import QAdapterTrainingArguments
from .memory import available_memory, is_out_of_memory, peak_memory, release_memory, used_memory

# The share of the available memory to plan with. On the CPU a wrong estimate ends the process; on a GPU it costs one
# retry.
_USABLE = {"cpu": 0.8, "cuda": 0.95}


class MemoryEstimate(NamedTuple):
    """Memory of a batch beyond what was in use before: fixed + pairs · per_pair."""

    fixed: int
    """Bytes that do not depend on the number of pairs."""
    per_pair: int
    """Bytes of each pair."""
    available: int
    """Bytes that could be taken before the measurement."""
    tokens: int
    """Tokens of the measured pair."""
    device: torch.device
    """Where it was measured."""
    one_fits: bool = True
    """False where memory ran out on a single pair: it takes more than is available."""

    def needed(self, pairs: int) -> int:
        """Bytes of a batch of `pairs`."""
        return self.fixed + pairs * self.per_pair

    def largest_batch(self, pairs: int) -> int:
        """The most pairs, 1 to `pairs`, that fit with a margin."""
        room = _USABLE[self.device.type] * self.available - self.fixed
        return max(1, min(pairs, math.floor(room / max(1, self.per_pair))))

    def describe(self, pairs: int) -> str:
        """The numbers and where they come from."""
        if not self.one_fits:
            return (
                f"not even one pair of {self.tokens} tokens fits into the {_gib(self.available)} that are available "
                f"on {self.device} beside the model (one was tried)"
            )
        fixed = "" if self.fixed == 0 else f"{_gib(self.fixed)} + "
        return (
            f"{pairs} pairs of {self.tokens} tokens take an estimated {_gib(self.needed(pairs))} beside the model, and "
            f"{_gib(self.available)} are available on {self.device} (measured on a pair or two: {fixed}"
            f"{_gib(self.per_pair)} a pair)"
        )


def estimate_memory(
    device: torch.device, work: Callable[[int], object], *, pairs: int, tokens: int
) -> MemoryEstimate | None:
    """Measure `work` on one pair and, where the answer hangs on it and there is room, on two.

    Args:
        device: where the work is done.
        work: takes a number of pairs and does on copies of one pair what is done with a batch.
        pairs: of the batch that is asked about.
        tokens: of the pair.

    Returns:
        None where memory cannot be measured (neither CPU nor CUDA).

    Raises:
        RuntimeError: from `work`, unless memory ran out.
    """
    release_memory()
    available = available_memory(device)
    if available is None:
        return None
    before, one = used_memory(device), 0
    try:
        one = max(1, peak_memory(device, lambda: work(1)) - before)
        estimate = MemoryEstimate(0, one, available, tokens, device)
        # Taking all of it as the pair's own errs on the safe side; the second measurement may have no room.
        if estimate.largest_batch(pairs) == pairs or estimate.largest_batch(2) == 1:
            return estimate
        both = max(1, peak_memory(device, lambda: work(2)) - before)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return MemoryEstimate(0, one or available, available, tokens, device, one_fits=one > 0)
    per_pair = min(max(1, both - one), one)
    return MemoryEstimate(one - per_pair, per_pair, available, tokens, device)


def batch_too_large(
    args: QAdapterTrainingArguments,
    *,
    training: bool,
    pairs: int,
    tokens: int,
    estimate: MemoryEstimate | None,
    cause: BaseException,
) -> BatchTooLargeError:
    """The error for a batch that does not fit.

    Args:
        args: of the run.
        training: whether it was a batch of training, not of evaluation.
        pairs: of the batch.
        tokens: of its longest pair, the prompt counted once.
        estimate: for pairs of that length, if there is one.
        cause: what the device reported; stands in for a missing estimate.
    """
    message = (
        f"{'a single pair out of ' if args.auto_micro_batch else ''}a batch of {pairs} pairs does not fit into the "
        f"memory of {args.device}; its longest pair has {tokens} tokens (prompt, chosen and rejected)."
    )
    if estimate is None:
        message += (
            f" No estimate; the device said: {str(cause).splitlines()[0] if str(cause) else type(cause).__name__}"
        )
    else:
        message += f" Estimate: {estimate.describe(pairs)}."
    ways = [f"lower max_length (now {args.max_length})"]
    if not args.activation_checkpointing:
        ways.append("set activation_checkpointing (slower, less memory)")
    if not args.auto_micro_batch:
        size = args.per_device_train_batch_size if training else args.per_device_eval_batch_size
        if args.distributed_state is None or args.world_size == 1:
            ways.insert(0, "set auto_micro_batch, which works through a batch in parts")
        if size > 1:
            ways.insert(
                0, _smaller_batch(args, training, size, 1 if estimate is None else estimate.largest_batch(size))
            )
    return BatchTooLargeError(message, hint=", or ".join(ways))


def _smaller_batch(args: QAdapterTrainingArguments, training: bool, size: int, fits: int) -> str:
    if not training:
        return f"lower per_device_eval_batch_size from {size} to {min(fits, size - 1)}"
    # A divisor, so that the optimizer can go on seeing the same batches.
    smaller = max(part for part in range(1, size) if size % part == 0 and part <= fits)
    accumulation = args.gradient_accumulation_steps * size // smaller
    return (
        f"lower per_device_train_batch_size from {size} to {smaller}, with gradient_accumulation_steps {accumulation} "
        "for the same result"
    )


def _gib(number: int) -> str:
    return f"{number / 2**30:.2f} GiB"
