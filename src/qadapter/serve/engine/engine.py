"""The decoder that requests join and leave: one thread that runs the model step by step.

Each turn of the loop

    1. runs one function that was asked for with `call`, such as a piece of the playground's view of tokens,
    2. lets go of requests that were cancelled or are late,
    3. makes one pass over prompts, at most `prefill_chunk` tokens, several short ones together: a request is admitted
       when its choices have free slots, and its first token comes with the turn that reads the end of its prompt,
    4. makes one decode step over all slots.

It knows nothing of HTTP. Everything of the model happens in its thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...model import QAdapterForCausalLM
from ...model.small_steps import small_steps
from ..metrics import EngineMetrics
from .choice import Choice
from .masks import check_servable
from .prefill import Prefill
from .probe import check_reads_together
from .request import Delta, Event, Failed, FailureReason, Request
from .sampling import choose
from .scheduler import RefusedError, Scheduler
from .slots import Slots
from .step import hidden_states, mixed_logits

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(frozen=True)
class EngineLimits:
    """How much the engine takes on."""

    max_batch: int = 8
    """Most choices that decode at the same time; each takes one or two rows of the model's batch."""
    max_queue: int = 64
    """Most requests that wait for a slot."""
    prefill_chunk: int = 256
    """Most prompt tokens that are read between two decode steps, several prompts counted as long as the longest."""


@dataclass
class _Running:
    """A request between its admission and its end."""

    admitted: float
    """On the clock of `time.monotonic`."""
    step: int
    """Decode steps before it was admitted."""
    left: int
    """Choices that are not finished."""


class Engine:
    """Answers requests. `start()` it, `submit()` from any thread, `close()` it.

    Args:
        model: the base with its adapters, in eval mode; nobody else may use it until `close()`.
        tokenizer: its tokenizer.
        stop_ids: the tokens that end an answer.
        limits: how much it takes on.

    Raises:
        UnsupportedModelError: a model whose attention cannot have rows of different lengths; a few tokens are tried.
    """

    def __init__(
        self,
        model: QAdapterForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: Sequence[int],
        limits: EngineLimits | None = None,
    ) -> None:
        check_servable(model.base)
        self.model, self.tokenizer, self.stop_ids = model.eval(), tokenizer, frozenset(stop_ids)
        self.limits = limits or EngineLimits()
        self.metrics = EngineMetrics()
        self.scheduler = Scheduler(self.limits.max_queue)
        self.layers: int = model.config.get_text_config().num_hidden_layers
        check_reads_together(self.model, self.layers)
        self.slots = self._empty_slots()
        self._prefill: Prefill | None = None
        self._running: dict[Request, _Running] = {}
        self._calls: deque[Callable[[], None]] = deque()
        self._steps = 0
        self._engaged = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="qadapter-engine", daemon=True)

    # ------------------------------------------------------------------ from any thread

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests, all or none.

        Raises:
            RefusedError: the queue is full, or the engine is shutting down.
        """
        assert all(request.choices <= self.limits.max_batch for request in requests), "they would wait forever"
        try:
            self.scheduler.submit(requests)
        except RefusedError:
            self.metrics.refused.add(len(requests))
            raise

    def cancel(self, request: Request) -> None:
        """Stop working on a request; nothing more is said about it. One that has ended is left alone."""
        self.scheduler.cancel(request)

    def call(self, function: Callable[[], Result]) -> Future[Result]:
        """Run a function of the model in the engine's thread; between two steps at most one of them is run.

        Raises:
            RefusedError: the engine is shutting down, and this is no part of what it was `engaged` with.
        """
        future: Future[Result] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except Exception as error:
                    future.set_exception(error)

        with self.scheduler.changed:
            if self._stopping or (self.scheduler.closed and not self._engaged):
                raise self._shutting_down()
            self._calls.append(run)
            self.scheduler.changed.notify_all()
        return future

    @contextmanager
    def engaged(self) -> Iterator[None]:
        """Inside, calls are work that was taken: the engine is not idle, and drained it still runs them.

        Raises:
            RefusedError: the engine is shutting down.
        """
        with self.scheduler.changed:
            if self.scheduler.closed:
                raise self._shutting_down()
            self._engaged += 1
        try:
            yield
        finally:
            with self.scheduler.changed:
                self._engaged -= 1

    def _shutting_down(self) -> RefusedError:
        return RefusedError("the server is shutting down and takes no new requests.", retry_after=None)

    def drain(self) -> None:
        """Take no new requests; those that were taken are still answered."""
        self.scheduler.close()

    @property
    def idle(self) -> bool:
        """Whether every request that was taken has ended."""
        with self.scheduler.changed:
            return not (self._running or self._calls or self._engaged or self.scheduler.waiting)

    @property
    def alive(self) -> bool:
        """Whether the engine's thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End: what is not answered yet fails with `shutdown`. Returns when the thread has ended."""
        self.scheduler.close()
        with self.scheduler.changed:
            self._stopping = True
            self.scheduler.changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    # ------------------------------------------------------------------ in the engine's thread

    def _run(self) -> None:
        with torch.inference_mode(), small_steps(self.model.row_router):
            while self._wait_for_work():
                try:
                    self._turn()
                except Exception:
                    # A fault of ours or of the machine (memory). The requests it hit are told; the next ones may fit.
                    logger.exception("a step failed; the requests in it are given up")
                    self._prefill, self.slots = None, self._empty_slots()
                    self._fail([*self._running], "error")
            while self._run_call():
                pass
            self._fail([*self.scheduler.clear(), *self._running], "shutdown")

    def _empty_slots(self) -> Slots:
        return Slots(self.layers, list(self.model.peft_model.peft_config))

    def _wait_for_work(self) -> bool:
        with self.scheduler.changed:
            self.scheduler.changed.wait_for(
                lambda: self._stopping or self._calls or self._running or self.scheduler.waiting
            )
            return not self._stopping

    def _turn(self) -> None:
        self._run_call()
        cancelled, late = self.scheduler.overdue([*self._running])
        self._forget(cancelled)
        self.metrics.cancelled.add(len(cancelled))
        self._fail(late, "deadline")
        self._read_prompts()
        if self.slots.choices:
            self._decode()
        self.metrics.observe_load(self.scheduler.waiting, len(self.slots.choices), self.slots.cache.bytes)

    def _run_call(self) -> bool:
        """Run the oldest call; False where there is none."""
        with self.scheduler.changed:
            call = self._calls.popleft() if self._calls else None
        if call is not None:
            call()
        return call is not None

    def _read_prompts(self) -> None:
        if self._prefill is None:
            self._admit()
        if (prefill := self._prefill) is None:
            return
        columns = min(self.limits.prefill_chunk, prefill.left)
        self.metrics.prompt_tokens.add(prefill.tokens(columns))
        try:
            logits = prefill.advance(columns)
        except torch.OutOfMemoryError:
            # What it has read is its own: those who already answer have lost nothing.
            logger.exception("the device's memory does not hold the next prompts; they are given up")
            self._fail(prefill.requests, "memory")
            return
        if logits is not None:
            self._prefill = None
            self._begin_answers(prefill, logits)

    def _admit(self) -> None:
        with self.scheduler.changed:  # at no moment is one neither waiting nor running
            free = self.limits.max_batch - len(self.slots.choices)
            requests = self.scheduler.next(free, self.limits.prefill_chunk)
            for request in requests:
                self._running[request] = _Running(time.monotonic(), self._steps, request.choices)
        if requests:
            self._prefill = Prefill(self.model, requests, self.layers)

    def _begin_answers(self, prefill: Prefill, logits: Tensor) -> None:
        choices, of_prompt = [], []
        for number, request in enumerate(prefill.requests):
            running = self._running[request]
            self.metrics.first_token_steps.observe(self._steps - running.step)
            self.metrics.first_token_seconds.observe(time.monotonic() - running.admitted)
            choices += [Choice(request, choice, self.tokenizer, self.stop_ids) for choice in range(request.choices)]
            of_prompt += [number] * request.choices
        deltas = self._take(choices, logits[of_prompt])
        for choice, delta in zip(choices, deltas, strict=True):
            if delta.finish is None:
                self.slots.join(choice, prefill.cache, list(prefill.rows[choice.request].values()))
        self._say(choices, deltas)

    def _decode(self) -> None:
        started = time.perf_counter()
        slots = self.slots
        choices = list(slots.choices)
        hidden = hidden_states(self.model, slots.cache, slots.last_tokens(), slots.routing())
        rows = [slots.rows_of(choice) for choice in choices]
        logits = mixed_logits(self.model, hidden[:, -1], rows, [choice.policy.mixture for choice in choices])
        self._steps += 1
        deltas = self._take(choices, logits)
        for choice, delta in zip(choices, deltas, strict=True):
            if delta.finish is not None:
                slots.leave(choice)
        self._say(choices, deltas)
        self.metrics.step_rows.observe(len(hidden))
        self.metrics.step_seconds.observe(time.perf_counter() - started)

    def _take(self, choices: Sequence[Choice], logits: Tensor) -> list[Delta]:
        """Choose each one's next token."""
        tokens = choose(logits, [choice.sampler for choice in choices])
        self.metrics.completion_tokens.add(len(tokens))
        return [choice.take(token, row) for choice, token, row in zip(choices, tokens, logits, strict=True)]

    def _say(self, choices: Sequence[Choice], deltas: Sequence[Delta]) -> None:
        """Tell the listeners; whoever hears that an answer is complete finds its slot free."""
        for choice, delta in zip(choices, deltas, strict=True):
            if delta.finish is not None:
                self._end_of(choice.request)
        for choice, delta in zip(choices, deltas, strict=True):
            _emit(choice.request, delta)

    def _end_of(self, request: Request) -> None:
        """One of a request's choices is finished."""
        running = self._running[request]
        running.left -= 1
        if not running.left:
            del self._running[request]
            self.metrics.answered.add(1)
            self.scheduler.answered((time.monotonic() - running.admitted) / self.limits.max_batch)

    def _fail(self, requests: Sequence[Request], reason: FailureReason) -> None:
        self._forget(requests)
        for request in requests:
            self.metrics.failed.add(1)
            _emit(request, Failed(reason))

    def _forget(self, requests: Sequence[Request]) -> None:
        gone = set(requests)
        # Several prompts are never between two passes: they are read in one.
        if self._prefill is not None and gone.issuperset(self._prefill.requests):
            self._prefill = None
        for choice in [choice for choice in self.slots.choices if choice.request in gone]:
            self.slots.leave(choice)
        for request in gone:
            self._running.pop(request, None)


def _emit(request: Request, event: Event) -> None:
    try:
        request.emit(event)
    except Exception:
        logger.exception("a listener failed; its request goes on")
