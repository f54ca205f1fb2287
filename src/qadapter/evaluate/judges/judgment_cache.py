"""The judgments of endpoint judges on disk: what was paid for once is not asked again.

One line of JSON per judgment, appended when the reply is there: {"key", "model", "choice"}. The key is a hash of what
the server was asked, not of where, so a moved server changes nothing; neither prompts nor answers nor the server's key
are kept. A kill can cut the last line: it is closed by a line break when the file is opened, and never used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from ...errors import ConfigError
from .pairwise_prompt import TEMPLATE_VERSION, Choice

logger = logging.getLogger(__name__)


def judgment_key(body: Mapping[str, Any]) -> str:
    """SHA-256 of a request (model, messages and all other fields) and of the version of the template."""
    return hashlib.sha256(json.dumps([TEMPLATE_VERSION, body], sort_keys=True).encode()).hexdigest()


class JudgmentCache:
    """Judgments by key. Threads may share it, and processes its file.

    Args:
        path: the file; it and its folder are made if absent.

    Raises:
        ConfigError: it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered and in append mode: a line is one write, whoever else writes.
            self._file = path.open("ab", buffering=0)
            content = path.read_bytes()
            if content and not content.endswith(b"\n"):
                self._file.write(b"\n")
        except OSError as error:
            raise _unusable(path, error) from error
        self._choices: dict[str, Choice] = {}
        self._models = set[str]()
        lines = content.split(b"\n")
        # What follows the last line break is empty, or was cut.
        unusable = int(bool(lines.pop()))
        for line in lines:
            if entry := _read(line):
                key, choice, model = entry
                self._choices[key] = choice
                self._models.add(model)
            else:
                unusable += bool(line)
        if unusable:
            logger.warning("%s: %d lines cut by an interruption or damaged; they are not used.", path, unusable)

    def __len__(self) -> int:
        return len(self._choices)

    def knows(self, model: str) -> bool:
        """Whether the file held judgments of a model when it was opened."""
        return model in self._models

    def get(self, key: str) -> Choice | None:
        """A judgment, or None."""
        return self._choices.get(key)

    def put(self, key: str, choice: Choice, model: str) -> None:
        """Keep a judgment; it is in the file when this returns.

        Raises:
            ConfigError: the file cannot be written.
        """
        line = json.dumps({"key": key, "model": model, "choice": choice}).encode() + b"\n"
        with self._lock:
            try:
                written = self._file.write(line)
            except OSError as error:
                raise _unusable(self.path, error) from error
            if written != len(line):
                raise _unusable(self.path, "the disk is full")
            self._choices[key] = choice


def _read(line: bytes) -> tuple[str, Choice, str] | None:
    try:
        entry = json.loads(line)
        key, choice, model = entry["key"], entry["choice"], entry.get("model", "")
    except (ValueError, TypeError, LookupError):
        return None
    usable = isinstance(key, str) and isinstance(model, str) and choice in get_args(Choice)
    return (key, choice, model) if usable else None


def _unusable(path: Path, reason: object) -> ConfigError:
    return ConfigError(f"the judgments cannot be kept in {path}: {reason}", hint="name another file with judge_cache")
