"""The base's part of the loss of a whole data set, on disk.

    states.bin      one record per state: z₀(a), logsumexp z₀, and h₀ where the loss needs it
    chunks.jsonl    one line per chunk that is complete, with its checksum

The states come pair by pair, the chosen response before the rejected one. A chunk is a run of whole pairs. Its line is
written when its records are on the disk, and its checksum is compared when the cache is opened: what an interrupted run
left half written, and what was damaged since, is computed again and never used.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..core import BaseStates
from ..errors import ConfigError

# At most this many states (unless one pair has more) are lost by an interruption, and held in memory while building.
CHUNK_STATES = 2**13
WAY_OUT = "name a folder on another disk with base_cache_dir, or set cache_base to false"


class ChunkCheck(NamedTuple):
    """What `BaseCache.check` found: numbers of chunks."""

    absent: list[int]
    """Never completed."""
    damaged: list[int]
    """Completed, but their content is not what was written."""


class BaseCache:
    """Where the states of a data set's responses are kept.

    Args:
        folder: of this cache alone; it must exist when a chunk is written.
        states: [pairs, 2] int, the number of states of each chosen and rejected response.
        hidden_size: of h₀; 0 to keep none.
        hidden_dtype: of h₀.
    """

    def __init__(self, folder: Path, states: np.ndarray, hidden_size: int, hidden_dtype: torch.dtype) -> None:
        self.folder, self.hidden_size, self.hidden_dtype = folder, hidden_size, hidden_dtype
        self.starts = np.concatenate([[0], states.ravel().cumsum()])
        """[2·pairs + 1]: response r = 2·pair + side has the records starts[r] to starts[r + 1]."""
        self.record = np.dtype(
            [("action_logits", "<f4"), ("logsumexp", "<f4"), ("hidden", "u1", (hidden_size * hidden_dtype.itemsize,))]
        )
        self.chunks = _chunks(self.starts[::2])
        """Each chunk's pairs."""
        self._records: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A worker process of the data loader maps the file itself; pickled, the whole map would be copied.
        return {**self.__dict__, "_records": None}

    def __len__(self) -> int:
        """The number of states."""
        return int(self.starts[-1])

    def nbytes(self, chunks: Sequence[int] | None = None) -> int:
        """Bytes on disk of some chunks, by their numbers; of all by default."""
        sizes = [self._span(chunk)[1] for chunk in (range(len(self.chunks)) if chunks is None else chunks)]
        return sum(sizes)

    def is_complete(self) -> bool:
        """Whether every chunk is said to be written. Reads no states."""
        return len(self._written()) == len(self.chunks)

    def check(self) -> ChunkCheck:
        """Compare every chunk with its checksum. Reads the whole file."""
        written = self._written()
        absent = [chunk for chunk in range(len(self.chunks)) if chunk not in written]
        return ChunkCheck(absent, [chunk for chunk, crc in written.items() if self._crc32(chunk) != crc])

    def write(self, chunk: int, states: BaseStates) -> int:
        """Put a chunk in its place. Several processes may do so at a time, with chunks of their own.

        Args:
            chunk: its number.
            states: of its pairs in their order, on any device.

        Returns:
            Its checksum. It counts once that was handed to `complete`.

        Raises:
            ConfigError: the disk is full.
        """
        offset, size = self._span(chunk)
        records = np.empty(size // self.record.itemsize, self.record)
        records["action_logits"] = states.action_logits.cpu().numpy()
        records["logsumexp"] = states.logsumexp.cpu().numpy()
        if states.hidden is not None:
            hidden = states.hidden.to("cpu", self.hidden_dtype).contiguous()
            records["hidden"] = hidden.view(torch.uint8).numpy()
        content = records.tobytes()
        with self._full_disk_is_an_error():
            self._states_file.touch()
            with self._states_file.open("r+b") as file:
                file.seek(offset)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        return zlib.crc32(content)

    def complete(self, chunk: int, crc32: int) -> None:
        """Count a chunk that was written, by any process. One process at a time."""
        line = json.dumps({"chunk": chunk, "crc32": crc32})
        with self._full_disk_is_an_error(), self._chunks_file.open("a", encoding="utf-8") as file:
            # The line break comes first: the line before may have been cut by a kill.
            file.write(f"\n{line}")

    @contextmanager
    def _full_disk_is_an_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ConfigError(f"the disk of {self.folder} is full ({error.strerror}).", hint=WAY_OUT) from error
            raise

    def gather(self, pairs: Sequence[int]) -> BaseStates:
        """The states of a batch in the order of the loss: all chosen responses, then all rejected ones.

        Args:
            pairs: numbers of the pairs, in the order of the batch.
        """
        if self._records is None:
            self._records = np.memmap(self._states_file, self.record, mode="r", shape=(len(self),))
        responses = [2 * pair + side for side in (0, 1) for pair in pairs]
        records = np.concatenate([self._records[self.starts[r] : self.starts[r + 1]] for r in responses])
        hidden = torch.from_numpy(records["hidden"].copy()).view(self.hidden_dtype) if self.hidden_size else None
        return BaseStates(
            torch.from_numpy(records["action_logits"].copy()), torch.from_numpy(records["logsumexp"].copy()), hidden
        )

    @property
    def _states_file(self) -> Path:
        return self.folder / "states.bin"

    @property
    def _chunks_file(self) -> Path:
        return self.folder / "chunks.jsonl"

    def _span(self, chunk: int) -> tuple[int, int]:
        """Offset and size of a chunk in the file, bytes."""
        pairs = self.chunks[chunk]
        first, end = (int(self.starts[2 * pair]) for pair in (pairs.start, pairs.stop))
        return first * self.record.itemsize, (end - first) * self.record.itemsize

    def _written(self) -> dict[int, int]:
        """Chunk → checksum; the last line of a chunk counts, since a damaged one is written again."""
        found = {}
        if self._chunks_file.is_file():
            for line in self._chunks_file.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                    found[entry["chunk"]] = entry["crc32"]
                except (ValueError, TypeError, KeyError):
                    continue  # cut by a kill, or damaged: the chunk has no checksum, so it is absent
        return {chunk: crc for chunk, crc in sorted(found.items()) if chunk in range(len(self.chunks))}

    def _crc32(self, chunk: int) -> int | None:
        """Of what the file holds; None where it does not reach that far."""
        offset, size = self._span(chunk)
        if not self._states_file.is_file():
            return None
        with self._states_file.open("rb") as file:
            file.seek(offset)
            content = file.read(size)
        return zlib.crc32(content) if len(content) == size else None


def refuse_full_disk(folder: Path, needed: int) -> None:
    """Raise `ConfigError` where the disk that `folder` is (or will be) on cannot hold `needed` bytes more."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise ConfigError(
            f"the base cache needs {human_size(needed)} in {folder}, whose disk has {human_size(free)} free.",
            hint=WAY_OUT,
        )


def human_size(nbytes: float) -> str:
    """Bytes in decimal units, three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 999.5:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


def _chunks(starts: np.ndarray) -> list[range]:
    """Runs of pairs of at most `CHUNK_STATES` states (or one pair); `starts` are the pairs' first states."""
    chunks, first = [], 0
    for pair in range(1, len(starts)):
        if pair == len(starts) - 1 or starts[pair + 1] - starts[first] > CHUNK_STATES:
            chunks.append(range(first, pair))
            first = pair
    return chunks
