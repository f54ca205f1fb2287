"""A language model behind an OpenAI-compatible server as the judge: which of two answers is better?"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

from ...errors import ConfigError
from ...generate import Answer
from .chat_client import ChatClient, RequestFailedError
from .cost import Cost
from .judge import SAME_TEXT, Verdict
from .judgment_cache import JudgmentCache, judgment_key
from .pairwise_prompt import REMINDER, Choice, pairwise_messages, read_choice

logger = logging.getLogger(__name__)

# Of one question: after this many refusals or replies outside of the format it has failed.
_ASKED_AT_MOST = 3
# So many requests in a row that found no server, each after all its repetitions, and the rest is not asked. Refusals
# and replies outside of the format count too, as long as nothing was ever judged: this model cannot judge.
_FAILURES_IN_A_ROW = 20
_PROBE = [{"role": "user", "content": "Reply with the one word: ready"}]


class _Opinion(NamedTuple):
    """On one question."""

    choice: Choice | None
    words: str
    """Why there is no choice."""
    cost: Cost
    asked: bool = True
    """False where the question never reached a server that answers."""
    lost: bool = False
    """Whether the server could not be had."""


class EndpointJudge:
    """Judges by comparison with a reference answer.

    The judge sees every pair in both orders, since models prefer what stands first (or last). An answer wins (score 1)
    or loses (0) where both orders say so; all else is a tie (0.5): the orders contradict each other, or one says "tie".
    Two answers with the same text tie without being shown. After a refusal, of the model or of a server's filter, or a
    reply outside of the format the judge is asked again after a pause, with a reminder; a question that stays without a
    choice makes the verdict fail, and is asked anew in the next run.
    Questions that found no server are asked once more at the end, if it answers then; else they count as not asked.

    Args:
        client: the server.
        model: the model that judges.
        cache: judgments that need not be asked for again.
        request: fields of the request over temperature 0 and 64 tokens; None takes one out.
        concurrency: requests under way at a time.
        price_in: US dollars per million prompt tokens, for `cost`.
        price_out: US dollars per million completion tokens.
    """

    kind = "endpoint"
    needs_reference = True

    def __init__(
        self,
        client: ChatClient,
        model: str,
        cache: JudgmentCache,
        *,
        request: Mapping[str, Any] | None = None,
        concurrency: int = 4,
        price_in: float | None = None,
        price_out: float | None = None,
    ) -> None:
        self.name, self.model = f"endpoint:{model}", model
        self.cost: dict[str, Any] | None = None
        self._client, self._cache, self._concurrency, self._prices = client, cache, concurrency, (price_in, price_out)
        self._request = {"temperature": 0, "max_tokens": 64, **(request or {})}
        self._probed = Cost()

    def check(self, *, may_be_cached: bool = False) -> None:
        """Send one short request; what it took is in the `cost` of the next call of `judge`.

        Args:
            may_be_cached: a server that cannot be had is a warning where the cache holds judgments of this model.

        Raises:
            ConfigError: the server is not there, or refuses the key, the model or the fields of the request.
        """
        try:
            self._client.complete(self._body(_PROBE), self._probed, threading.Event())
        except RequestFailedError as error:
            message = f"the judge's server {self._client.url} does not answer: {error}"
            if may_be_cached and self._cache.knows(self.model):
                logger.warning("%s; only what it judged before can be had.", message)
                return
            raise ConfigError(message, hint="is it running, and does it take the fields of judge_request?") from error

    def judge(
        self,
        prompts: Sequence[list[dict[str, str]]],
        answers: Sequence[Answer],
        references: Sequence[Answer] | None = None,
    ) -> list[Verdict]:
        """Compare answers with reference answers; `cost` then says what that took.

        Raises:
            ValueError: no references.
            ConfigError: the server refuses the key or the model, or is not where it was said to be. What was judged
                until then is in the cache, as it is after an interruption.
        """
        if references is None:
            raise ValueError("this judge compares answers with references")
        self.cost = None
        questions: list[tuple[str, str] | None] = []
        bodies: dict[str, dict[str, Any]] = {}
        for prompt, answer, reference in zip(prompts, answers, references, strict=True):
            if answer.text == reference.text:
                questions.append(None)
                continue
            shown_first = self._body(pairwise_messages(prompt, answer.text, reference.text))
            shown_last = self._body(pairwise_messages(prompt, reference.text, answer.text))
            keys = judgment_key(shown_first), judgment_key(shown_last)
            bodies |= zip(keys, (shown_first, shown_last), strict=True)
            questions.append(keys)
        known = self._known(bodies)
        unknown = {key: body for key, body in bodies.items() if key not in known}
        opinions = known | self._ask_all(unknown, can_judge=bool(known))
        opinions |= self._ask_again({key: unknown[key] for key, opinion in opinions.items() if opinion.lost}, opinions)
        verdicts = [
            Verdict(0.5, SAME_TEXT) if keys is None else _verdict(*(opinions[key] for key in keys))
            for keys in questions
        ]
        total, self._probed = self._probed, Cost()
        total.failed = sum(verdict.score is None for verdict in verdicts)
        for opinion in opinions.values():
            total.add(opinion.cost)
        self.cost = total.report(*self._prices)
        return verdicts

    def _body(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        body = {"model": self.model, "messages": messages, **self._request}
        return {name: value for name, value in body.items() if value is not None}

    def _known(self, bodies: Mapping[str, dict[str, Any]]) -> dict[str, _Opinion]:
        choices = {key: self._cache.get(key) for key in bodies}
        return {key: _Opinion(choice, "", Cost(cached=1)) for key, choice in choices.items() if choice is not None}

    def _ask_all(self, bodies: Mapping[str, dict[str, Any]], *, can_judge: bool) -> dict[str, _Opinion]:
        """Opinions by key. `can_judge`: whether this model has judged anything before."""
        opinions: dict[str, _Opinion] = {}
        stopped, in_a_row, last_words = threading.Event(), 0, ""
        with ThreadPoolExecutor(self._concurrency) as pool:
            futures = {pool.submit(self._ask, key, body, stopped): key for key, body in bodies.items()}
            try:
                for future in as_completed(futures):
                    opinion = None if future.cancelled() else future.result()
                    if opinion is None:
                        words = f"not asked, after {_FAILURES_IN_A_ROW} failures in a row; the last: {last_words}"
                        opinions[futures[future]] = _Opinion(None, words, Cost(), asked=False)
                        continue
                    opinions[futures[future]] = opinion
                    can_judge = can_judge or opinion.choice is not None
                    in_a_row = in_a_row + 1 if opinion.lost or not can_judge else 0
                    if in_a_row == _FAILURES_IN_A_ROW:
                        last_words = opinion.words
                        stopped.set()
                        for other in futures:
                            other.cancel()
            except BaseException:
                # Those under way end without being repeated; the pool waits for them.
                stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return opinions

    def _ask_again(self, bodies: Mapping[str, dict[str, Any]], before: Mapping[str, _Opinion]) -> dict[str, _Opinion]:
        """Opinions on questions that found no server: was it away for a while, or do they bring it down?"""
        if not bodies:
            return {}
        try:
            self._client.complete(self._body(_PROBE), self._probed, threading.Event())
        except (RequestFailedError, ConfigError):
            return {key: before[key]._replace(asked=False) for key in bodies}
        opinions = self._ask_all(bodies, can_judge=True)
        for key, opinion in opinions.items():
            opinion.cost.add(before[key].cost)
        return opinions

    def _ask(self, key: str, body: dict[str, Any], stopped: threading.Event) -> _Opinion | None:
        """The opinion; None where all was stopped before this question's turn."""
        if stopped.is_set():
            return None
        cost, asked, why = Cost(), body, ""
        for attempt in range(_ASKED_AT_MOST):
            if attempt:
                self._client.pause(attempt - 1, stopped)
                if stopped.is_set():
                    break
                cost.asked_again += 1
            try:
                reply = self._client.complete(asked, cost, stopped)
            except RequestFailedError as error:
                if not error.filtered:
                    return _Opinion(None, str(error), cost, lost=error.lost)
                why = f"refused {attempt + 1} times, the last: {error}"
                continue
            except ConfigError:
                stopped.set()  # here and not where it is caught: meanwhile the next question would be sent
                raise
            # What goes on behind the cut may say something else: an "A" may be the beginning of "A tie".
            choice = None if reply.refused or reply.cut else read_choice(reply.text)
            if choice is not None:
                self._cache.put(key, choice, self.model)
                return _Opinion(choice, "", cost)
            words, where = self._client.shown(reply.text), _limit(body) if reply.cut else ""
            why = f"no choice in {attempt + 1} replies, the last{where}: {words or 'empty'}"
            asked = {**body, "messages": [*body["messages"], *_reminder(words)]}
        return _Opinion(None, why, cost)


def _limit(body: Mapping[str, Any]) -> str:
    """Where a reply was cut off, and the way out."""
    sent = [f"{name} {body[name]}" for name in ("max_tokens", "max_completion_tokens") if name in body]
    return f", cut off at {' and '.join(sent) or 'a limit of the server'} (raise it with judge_request)"


def _reminder(words: str) -> list[dict[str, str]]:
    """What follows the question when it is asked again. After an empty reply nothing: turns have to alternate."""
    if not words.strip():
        return []
    return [{"role": "assistant", "content": words}, {"role": "user", "content": REMINDER}]


def _verdict(shown_first: _Opinion, shown_last: _Opinion) -> Verdict:
    """From the two orders to one verdict; `shown_first`: the answer was model-a."""
    if shown_first.choice is None or shown_last.choice is None:
        words = dict.fromkeys(opinion.words for opinion in (shown_first, shown_last) if opinion.choice is None)
        return Verdict(None, "; ".join(words), asked=shown_first.asked and shown_last.asked)
    first = {"a": "better", "b": "worse", "tie": "a tie"}[shown_first.choice]
    last = {"b": "better", "a": "worse", "tie": "a tie"}[shown_last.choice]
    if first == last:
        return Verdict({"better": 1.0, "worse": 0.0, "a tie": 0.5}[first], f"{first} in both orders")
    return Verdict(0.5, f"{first} when shown first, {last} when shown last")
