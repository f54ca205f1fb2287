"""From the fields of a body to requests for the engine: names, limits, prompts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError

from ...data import encode_prompt
from ...errors import ConfigError, DataError
from ..adapters import ServedModel, ServedPolicy
from ..engine import Engine, Event, Policy, Request, Sampling
from .errors import ApiError, did_you_mean
from .handover import Handover
from .schema import GenerationFields, Message, PolicyFields
from .token_texts import TokenTexts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServiceLimits:
    """What a request may ask for."""

    max_context: int
    """Tokens of prompt and answer together."""
    max_tokens: int = 4096
    """Tokens of an answer."""
    max_choices: int = 8
    """Answers to one prompt."""
    max_body: int = 1 << 20
    """Bytes of a body."""
    timeout: float = 600.0
    """Seconds from a request's arrival to the end of its answer."""


class Service:
    """What all routes share.

    Args:
        served: base and adapters.
        engine: their decoder.
        limits: of requests.
        log_prompts: write prompts to the log.
    """

    def __init__(
        self, served: ServedModel, engine: Engine, limits: ServiceLimits, *, log_prompts: bool = False
    ) -> None:
        self.served, self.engine, self.limits, self.log_prompts = served, engine, limits, log_prompts
        self.tokenizer = served.tokenizer
        self.texts = TokenTexts(served.tokenizer)
        self.started = int(time.time())
        self.handover: Handover
        """From the engine's thread to the loop that the application runs in; there once the application is."""

    def served_policy(self, name: str) -> ServedPolicy:
        """The adapter or base of a name.

        Raises:
            ApiError: 404, with the names that are known.
        """
        policies = self.served.policies
        if name not in policies:
            raise ApiError(
                404,
                f"model {name!r} is not served{did_you_mean(name, policies)}; served are {', '.join(policies)}",
                param="model",
                code="model_not_found",
            )
        return policies[name]

    def policy(self, fields: PolicyFields) -> Policy:
        """The policy that a body asks for.

        Raises:
            ApiError: 404 for an unknown model; 400 for a dial that the model does not have or that leaves no policy.
        """
        served = self.served_policy(fields.model)
        try:
            return served.policy(fields.strength, fields.alpha_0, fields.alpha_tilde)
        except ConfigError as error:
            given = [name for name in ("strength", "alpha_0", "alpha_tilde") if getattr(fields, name) is not None]
            raise ApiError(400, str(error), param=given[0] if given else None, code="invalid_dial") from error

    async def encode(self, prompt: str | Sequence[Message], param: str) -> list[int]:
        """The tokens of a prompt; a long one does not hold up the event loop.

        Raises:
            ApiError: 400 where the chat template refuses the messages or there is none.
        """
        text: str | list[dict[str, str]]
        if isinstance(prompt, str):
            text = prompt
        else:
            if prompt[-1].role == "assistant":
                raise ApiError(
                    400,
                    f"{param}.{len(prompt) - 1}.role: the last message must be one to answer (user or system), got "
                    "'assistant'",
                    param=f"{param}.{len(prompt) - 1}.role",
                    code="invalid_role",
                )
            roles = {"developer": "system"}
            text = [{"role": roles.get(m.role, m.role), "content": m.text()} for m in prompt]
        if self.log_prompts:
            logger.info("prompt: %s", text)
        try:
            return await asyncio.to_thread(encode_prompt, text, self.tokenizer)
        except (TemplateError, DataError) as error:
            raise ApiError(400, f"{param}: {error}", param=param, code="chat_template") from error

    def room(
        self, prompt_ids: Sequence[int], asked: int | None, default: int, param: str, *, asked_as: str = "max_tokens"
    ) -> int:
        """Most tokens of the answer to a prompt.

        Args:
            prompt_ids: the prompt.
            asked: what the body says.
            default: where it says nothing; less where less fits.
            param: name of the prompt's field.
            asked_as: name of the field that says how long.

        Raises:
            ApiError: 400 for an empty prompt, one that leaves no room, or an answer that does not fit.
        """
        context, limits = self.limits.max_context, self.limits
        if not prompt_ids:
            raise ApiError(400, f"{param}: the prompt has no tokens.", param=param, code="empty_prompt")
        left = context - len(prompt_ids)
        if left < 1:
            raise ApiError(
                400,
                f"{param}: the prompt has {len(prompt_ids)} tokens; prompt and answer together may have {context}.",
                param=param,
                code="context_length_exceeded",
            )
        if asked is None:
            return min(default, left, limits.max_tokens)
        if asked > limits.max_tokens:
            raise ApiError(
                400, f"{asked_as}: at most {limits.max_tokens} here, got {asked}", param=asked_as, code="too_large"
            )
        if asked > left:
            raise ApiError(
                400,
                f"{asked_as}: {asked} tokens behind a prompt of {len(prompt_ids)} are more than the {context} that "
                "prompt and answer together may have.",
                param=asked_as,
                code="context_length_exceeded",
            )
        return asked

    def request(
        self,
        fields: GenerationFields,
        prompt_ids: Sequence[int],
        max_tokens: int,
        top_logprobs: int | None,
        *,
        continues: bool = False,
    ) -> Request:
        """What the engine is asked for.

        Raises:
            ApiError: as `policy`; 400 for too many choices.
        """
        choices = fields.n or 1
        most = min(self.limits.max_choices, self.engine.limits.max_batch)
        if choices > most:
            raise ApiError(400, f"n: at most {most} here, got {choices}", param="n", code="too_large")
        stop = [fields.stop] if isinstance(fields.stop, str) else fields.stop or []
        timeout = min(fields.timeout or self.limits.timeout, self.limits.timeout)
        return Request(
            prompt_ids=tuple(prompt_ids),
            policy=self.policy(fields),
            sampling=Sampling(
                max_tokens=max_tokens,
                temperature=1.0 if fields.temperature is None else fields.temperature,
                top_p=1.0 if fields.top_p is None else fields.top_p,
                seed=fields.seed,
                stop=tuple(stop),
                top_logprobs=top_logprobs,
            ),
            emit=_nobody_listens,
            choices=choices,
            continues=continues,
            deadline=time.monotonic() + timeout,
        )


def _nobody_listens(event: Event) -> None:
    raise AssertionError(f"a request was submitted without a listener, and answered {event}")
