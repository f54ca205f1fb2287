"""Finished jobs on disk, each one JSON file that is written whole; and a line of progress for each."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import __version__
from ..baselines.code_digest import code_digest
from ..baselines.library_versions import library_versions
from ..baselines.shared_file import digest_of
from ..data.whole_file import write_whole
from ..errors import QAdapterError
from .mixed_code import UNKNOWN_CODE

_LONGEST_NAME = 120


def job_name(words: list[str], inputs: Any) -> str:
    """A readable file name that tells any two jobs apart: its words and the hash of what determines the result."""
    readable = re.sub(r"[^A-Za-z0-9._=-]+", "_", "-".join(words))[:_LONGEST_NAME]
    return f"{readable}-{digest_of(inputs)}"


def jobs_folder(output_dir: Path) -> Path:
    """Where a comparison keeps its finished jobs."""
    return output_dir / "jobs"


def finished_jobs(folder: Path, kind: str) -> list[str]:
    """The names of the jobs of a kind that are finished; the first word of a job's name is its kind."""
    return sorted(path.stem for path in folder.glob(f"{kind}-*.json"))


class Jobs:
    """The jobs of a comparison, in a folder.

    Args:
        folder: holds one file `<name>.json` for each finished job.
        total: how many jobs there are.
        say: prints a line of progress.
        report_only: True where a job that is not finished is an error instead of being done.
    """

    def __init__(self, folder: Path, total: int, say: Callable[[str], None], *, report_only: bool = False) -> None:
        self.folder, self.total, self.say, self.report_only = folder, total, say, report_only
        self.done = 0
        self.versions = set[str]()
        """Of qadapter, that did the jobs asked for so far."""
        self.codes = set[str]()
        """The digests of its sources."""
        self.libraries: dict[str, set[str]] = {}
        """Name → the versions that these jobs were done with; nothing of jobs of before it was noted."""
        self._taken: dict[str, tuple[str, float]] = {}
        self._left: dict[str, int] = {}

    def expect(self, kind: str, count: int) -> None:
        """Announce jobs of a kind; jobs of one kind are taken to need about the same time."""
        self._left[kind] = self._left.get(kind, 0) + count

    def result(self, name: str, kind: str, title: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a job: from its file, or made and written.

        Args:
            name: from `job_name`.
            kind: as announced.
            title: for the line of progress.
            make: does it. `qadapter_version`, `code` and `libraries` in what it returns are of the process that did
                it, where that is not this one.

        Raises:
            QAdapterError: with `report_only`, a job that is not finished.
            OSError: its file cannot be written; it names it.
        """
        self.done += 1
        self._left[kind] -= 1
        finished = self.read(name)
        if finished is None and self.report_only:
            raise QAdapterError(f"not finished yet: {title}", hint="leave --report-only out to go on")
        made = finished is None
        if finished is None:
            started = time.monotonic()
            of_code = {"qadapter_version": __version__, "code": code_digest(), "libraries": library_versions()}
            finished = {"job": title, **of_code, **make()}
            finished["seconds"] = round(time.monotonic() - started, 2)
            self._write(name, finished)
        self.versions.add(finished["qadapter_version"])
        self.codes.add(finished.get("code", UNKNOWN_CODE))
        for library, version in finished.get("libraries", {}).items():
            self.libraries.setdefault(library, set()).add(version)
        self._taken[name] = kind, finished["seconds"]
        note = f"{finished['seconds']:7.0f} s{self._time_left()}" if made else "   done before"
        self.say(f"[{self.done:>{len(str(self.total))}}/{self.total}] {title:<64}{note}")
        return finished

    @property
    def seconds(self) -> dict[str, float]:
        """Kind → what its jobs took that were asked for so far, each counted once, whenever it was done."""
        return {kind: sum(taken) for kind, taken in sorted(self._by_kind().items())}

    def _by_kind(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for kind, seconds in self._taken.values():
            found.setdefault(kind, []).append(seconds)
        return found

    def read(self, name: str) -> dict[str, Any] | None:
        """A finished job; None where it is not finished, or where its file is none (a power cut can leave that)."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            self.say(f"warning: {path} is no JSON, and its job not finished")
            return None

    def _write(self, name: str, content: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / f"{name}.json", json.dumps(content, ensure_ascii=False, indent=1) + "\n")

    def _time_left(self) -> str:
        """By the mean time of the jobs of the same kind; of a kind that is new, by the mean of all."""
        by_kind = self._by_kind()
        every = [seconds for _, seconds in self._taken.values()]
        left = 0.0
        for kind, count in self._left.items():
            known = by_kind.get(kind, every)
            left += count * sum(known) / len(known)
        return f"   about {max(1, round(left / 60))} min left" if left > 0 else ""
