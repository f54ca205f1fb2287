"""`qadapter train --launch CONFIG`: the same command in every process that `accelerate launch` starts.

The launcher says why a run ended; its processes hand it their errors in the file that torchelastic gives each of them,
and keep quiet themselves, so that one error is not printed by every process.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command, launch_command_parser
from accelerate.utils import DistributedType
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure, get_error_handler

from ..errors import ConfigError, MissingExtraError, QAdapterError

_LAUNCHED = "QADAPTER_LAUNCHED"
# What the others see when a process is gone: gloo, then NCCL.
_LOST_TEXTS = ("closed by peer", "Connection reset", "Connection refused", "remote process exited", "NCCL")


def in_launched_process() -> bool:
    """Whether this process was started by a launcher: ours, `accelerate launch` or torchrun."""
    return "LOCAL_RANK" in os.environ


def launch(
    config_file: str, processes: int | None, argv: Sequence[str], resume: Callable[[], str | None], *, cpu: bool
) -> None:
    """Run `qadapter train` in several processes, and wait for them.

    Args:
        config_file: of `accelerate launch`.
        processes: how many, over all machines; default what the file says.
        argv: the words after `qadapter train`; the processes get all of them.
        resume: gives the command that continues the run, for the hint of an error; None where there is none yet.
        cpu: whether the run was told to use the CPU.

    Raises:
        ConfigError: the file cannot be read, is not one of accelerate's, or does not go with a CPU.
        MissingExtraError: it wants DeepSpeed, which is not installed.
        QAdapterError: a process failed; the others were stopped.
        KeyboardInterrupt: after Ctrl-C or SIGTERM.
    """
    _check(config_file, cpu)
    words = ["--config_file", config_file, *([] if processes is None else ["--num_processes", str(processes)])]
    args = launch_command_parser().parse_args([*words, "--module", "qadapter", "train", *argv])
    # One line from us instead of a report over a screen.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ[_LAUNCHED] = "1"
    try:
        launch_command(args)
    except ChildFailedError as failed:
        raise QAdapterError(_why(failed.failures), hint=resume()) from None
    except SignalException as signal:
        raise KeyboardInterrupt("; ".join(["interrupted", *filter(None, [resume()])])) from signal
    except (ValueError, ConnectionError) as error:
        raise ConfigError(f"--launch {config_file}: {error}") from error
    finally:
        del os.environ[_LAUNCHED]


def _check(config_file: str, cpu: bool) -> None:
    hint = "the configs that come with qadapter are in recipes/accelerate; `accelerate config` writes others"
    if not Path(config_file).is_file():
        raise ConfigError(f"--launch: no such file: {config_file}", hint=hint)
    try:
        kind = load_config_from_file(config_file).distributed_type
    except (ValueError, TypeError, KeyError, AttributeError, OSError, yaml.YAMLError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"--launch: {config_file} is not a config of accelerate: {text}", hint=hint) from error
    if kind in (DistributedType.NO, DistributedType.MULTI_CPU):
        raise ConfigError(
            f"--launch: {config_file} has distributed_type {kind.value}: one process, which needs no launcher.",
            hint="leave --launch out, or use recipes/accelerate/ddp.yaml (with --use-cpu on a CPU)",
        )
    if kind == DistributedType.DEEPSPEED and importlib.util.find_spec("deepspeed") is None:
        raise MissingExtraError("deepspeed", "deepspeed", f"--launch {config_file}")
    if cpu and kind in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ConfigError(
            f"--launch: {config_file} asks for {kind.value}, which accelerate leaves out in silence on a CPU.",
            hint="use recipes/accelerate/ddp.yaml with --use-cpu",
        )


def _why(failures: dict[int, ProcessFailure]) -> str:
    """One line about the failure that came first: the others may only have lost the process that failed."""
    rank, failure = min(failures.items(), key=lambda one: (_is_lost(_text(one[1])), one[1].timestamp))
    if failure.exitcode < 0:
        killer = " (by the system where memory runs out)" if failure.signal_name() == "SIGKILL" else ""
        return f"process {rank} was ended by {failure.signal_name()}{killer}; the others were stopped."
    said = _text(failure)
    return said if said else f"process {rank} ended with exit status {failure.exitcode}; the others were stopped."


def _text(failure: ProcessFailure) -> str:
    """What the process said of its error, or nothing."""
    message: Any = failure.message
    text = message.get("message", "") if isinstance(message, dict) else ""
    return text.partition(": ")[2]  # without the name of the class


def _is_lost(text: str) -> bool:
    return any(mark in text for mark in _LOST_TEXTS)


@contextmanager
def errors_for_the_launcher() -> Iterator[None]:
    """Hand an error of the body to the launcher, and end this process.

    Without our launcher it is left to the command line to print it, except that the loss of another process becomes
    one line instead of a traceback.

    Raises:
        SystemExit: the launcher was told, or another process is gone.
    """
    try:
        yield
    except QAdapterError as error:
        if _LAUNCHED not in os.environ:
            raise
        get_error_handler().record_exception(error)
        raise SystemExit(2) from error
    except RuntimeError as error:
        get_error_handler().record_exception(error)
        if not _is_lost(str(error)):
            raise
        if _LAUNCHED not in os.environ:
            raise QAdapterError(f"another process of this run is gone: {str(error).splitlines()[0]}") from error
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        if _LAUNCHED not in os.environ:
            raise
        raise SystemExit(130) from None
