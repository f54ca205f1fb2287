"""What the processes of a run do together, beside exchanging gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ..errors import QAdapterError

Result = TypeVar("Result")


def from_main_process(work: Callable[[], Result]) -> Result:
    """The result of what the main process alone does, in all processes; they wait for it.

    Args:
        work: returns something that can be pickled.

    Raises:
        QAdapterError: the one of `work`, in all processes.
    """
    outcome: list[Any] = [None, None]
    raised: QAdapterError | None = None
    if PartialState().is_main_process:
        try:
            outcome[0] = work()
        except QAdapterError as error:
            raised, outcome[1] = error, str(error)
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise raised or QAdapterError(outcome[1])
    return outcome[0]
