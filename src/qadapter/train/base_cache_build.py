"""Opening the base cache of a run: found, continued after an interruption, or built.

Several processes build it together, each chunk by one of them, and all read all of it. They make the same number of
passes, since the base's weights may be spread over them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..core import BaseStates
from ..errors import ConfigError, QAdapterError
from ..model import QAdapterForCausalLM
from ..model.fingerprint import tokenizer_fingerprint
from ..model.loading import cache_root
from .base_cache import WAY_OUT, BaseCache, human_size, refuse_full_disk
from .dataset import digest_of_tokens
from .memory import is_out_of_memory, release_memory
from .processes import from_main_process

logger = logging.getLogger(__name__)

# Belongs into the key of every cache: raise it when the records or their order change.
_FORMAT = 2
_SECONDS_BETWEEN_LINES = 10.0
# What of a base's config says nothing of what it computes.
_NOT_COMPUTED = {"_name_or_path", "transformers_version", "architectures", "dtype", "use_cache"}

States = Callable[[list[dict[str, Any]]], BaseStates]
"""From rows of the data set to the states of these pairs as one batch."""


def default_cache_dir() -> Path:
    """Where base caches are kept unless `base_cache_dir` says otherwise."""
    return cache_root() / "base-states"


def base_cache(
    model: QAdapterForCausalLM, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, directory: Path, precision: str
) -> BaseCache:
    """The cache that belongs to a base, a tokenizer and tokenized pairs; it may not be built yet.

    Args:
        model: with the base and the constants; these decide whether h₀ is kept.
        tokenizer: of the pairs.
        dataset: tokenized pairs.
        directory: holds one folder per cache, named by a hash of all of this. What changes gets another folder.
        precision: of the autocast that the passes run under.

    Raises:
        ConfigError: a base whose weights cannot be told from another's.
    """
    base = model.base_fingerprint.weights_sha256
    if base is None:
        raise ConfigError(
            "cache_base needs to tell this base from others by its weights, and they cannot be read (quantized?).",
            hint="set cache_base to false",
        )
    keep_hidden = model.constants.needs_base_hidden or "anchor" in dataset.column_names
    hidden_size = model.head.weight.shape[1] if keep_hidden else 0
    states = np.array([_states(row) for row in dataset], dtype=np.int64)
    config = model.base.config.get_text_config().to_dict()
    facts = {
        "format": _FORMAT,
        "base": base,
        "config": {name: value for name, value in config.items() if name not in _NOT_COMPUTED},
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "pairs": digest_of_tokens(dataset),
        "dtype": str(model.dtype),
        "precision": precision,
        "hidden_size": hidden_size,
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
    return BaseCache(directory / key[:32], states, hidden_size, model.dtype)


def fill(
    cache: BaseCache, dataset: Dataset, batch_size: int, states_of: States, *, epochs: float, to_fit: bool = False
) -> None:
    """Compute the chunks that are not there or are damaged. All processes of a run must call this.

    Args:
        cache: of `dataset`.
        dataset: tokenized pairs.
        batch_size: pairs per pass.
        states_of: makes the pass.
        epochs: passes over the data set that the run will make.
        to_fit: halve `batch_size` as often as memory runs out; for a single process.

    Raises:
        ConfigError: the disk cannot hold the cache, its folder cannot be written, or other machines do not share it.
    """
    with ExitStack() as locked:
        todo = from_main_process(lambda: _plan(cache, dataset, epochs, locked))
        while todo:
            try:
                _compute(cache, dataset, batch_size, states_of, todo)
                break
            except (RuntimeError, MemoryError) as error:
                if not to_fit or batch_size == 1 or not is_out_of_memory(error):
                    raise
            # Not in the handler: the exception keeps the tensors of the failed pass alive.
            release_memory()
            batch_size //= 2
            logger.warning("base cache: memory ran out; going on with passes of %d.", batch_size)
            todo = sorted(chain(*cache.check()))
    PartialState().wait_for_everyone()  # until the main process has counted the last chunks
    if not all(gather_object([cache.is_complete()])):
        raise QAdapterError(
            f"{cache.folder} is not the same folder on all machines of this run.",
            hint="name a folder that they share with base_cache_dir, or set cache_base to false",
        )


def _plan(cache: BaseCache, dataset: Dataset, epochs: float, locked: ExitStack) -> list[int]:
    """The chunks to compute. If there are any, the folder is held by this process until `locked` is closed."""
    found = cache.check()
    if not any(found):
        logger.info("base cache found: %s, %d states, in %s", human_size(cache.nbytes()), len(cache), cache.folder)
        return []
    refuse_full_disk(cache.folder, cache.nbytes([*found.absent, *found.damaged]))
    logger.info(
        "base cache of %s for %d states of %d pairs, in %s",
        human_size(cache.nbytes()), len(cache), len(dataset), cache.folder,
    )  # fmt: skip
    if epochs <= 1:
        logger.warning("cache_base costs this run a pass and saves none: it pays from the second epoch on.")
    locked.enter_context(_lock(cache.folder))
    absent, damaged = cache.check()  # again: another run may have built it meanwhile
    if damaged:
        logger.warning(
            "%s: %d of %d chunks do not have their checksum (chunk %s): computed again.",
            cache.folder, len(damaged), len(cache.chunks), _some(damaged),
        )  # fmt: skip
    todo = sorted([*absent, *damaged])
    if len(todo) < len(cache.chunks):
        logger.info("%d of %d chunks are complete already", len(cache.chunks) - len(todo), len(cache.chunks))
    return todo


def _compute(cache: BaseCache, dataset: Dataset, batch_size: int, states_of: States, todo: list[int]) -> None:
    """Compute chunks, one per process at a time."""
    process = PartialState()
    progress = _Progress(sum(len(cache.chunks[chunk]) for chunk in todo))
    for start in range(0, len(todo), process.num_processes):
        chunks = todo[start : start + process.num_processes]
        passes = max(-(-len(cache.chunks[chunk]) // batch_size) for chunk in chunks)
        # A process without a chunk of its own repeats another's, so that all take part in every pass.
        mine = chunks[process.process_index % len(chunks)]
        states = _in_batches(dataset, cache.chunks[mine], batch_size, states_of, passes)
        written = [(mine, cache.write(mine, states))] if process.process_index < len(chunks) else []
        for chunk, crc32 in gather_object(written):
            if process.is_main_process:
                cache.complete(chunk, crc32)
                progress.add(len(cache.chunks[chunk]))


def _in_batches(dataset: Dataset, pairs: range, batch_size: int, states_of: States, passes: int) -> BaseStates:
    """The states of a run of pairs in their order, computed in batches of like length, in at least so many passes."""
    rows = [dataset[pair] for pair in pairs]
    by_length = sorted(range(len(rows)), key=lambda index: rows[index]["length"])
    found: dict[int, list[BaseStates]] = {}
    for start in range(0, len(rows), batch_size):
        batch = by_length[start : start + batch_size]
        states = states_of([rows[index] for index in batch])
        counts = [count for side in (0, 1) for count in (_states(rows[index])[side] for index in batch)]
        parts = [None if field is None else field.cpu().split(counts) for field in states]
        for position, index in enumerate(batch):
            found[index] = [
                BaseStates._make(None if part is None else part[position + side * len(batch)] for part in parts)
                for side in (0, 1)
            ]
    for _ in range(passes - -(-len(rows) // batch_size)):
        states_of([rows[0]])
    in_order = [response for index in range(len(rows)) for response in found[index]]
    return BaseStates._make(None if field[0] is None else torch.cat(field) for field in zip(*in_order, strict=True))


def _states(row: Mapping[str, Any]) -> tuple[int, int]:
    """States of the chosen and of the rejected response: one per token, and the one that a cut response was left in."""
    chosen, rejected = (len(row[f"{side}_ids"]) + (not row[f"{side}_terminated"]) for side in ("chosen", "rejected"))
    return chosen, rejected


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the folder for this process. The system lets go of it when the process ends, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        raise ConfigError(f"the folder of the base cache cannot be written: {error}", hint=WAY_OUT) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another run is building this base cache; waiting for it.")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _some(chunks: list[int]) -> str:
    """The first of them, counted from one."""
    return ", ".join(str(chunk + 1) for chunk in chunks[:5]) + (", ..." if len(chunks) > 5 else "")


class _Progress:
    """Log lines with the pace and the time left."""

    def __init__(self, pairs: int) -> None:
        self.pairs, self.done = pairs, 0
        self.started = self.last_line = time.monotonic()

    def add(self, pairs: int) -> None:
        self.done += pairs
        now = time.monotonic()
        if now - self.last_line >= _SECONDS_BETWEEN_LINES or self.done == self.pairs:
            self.last_line = now
            pace = self.done / max(now - self.started, 1e-9)
            left = (self.pairs - self.done) / pace
            logger.info(
                "base cache: %d of %d pairs  %.2f pairs/s  left %d:%02d",
                self.done, self.pairs, pace, left // 60, left % 60,
            )  # fmt: skip
