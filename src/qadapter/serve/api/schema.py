"""The bodies of requests. Nothing in them is dropped in silence: a field is used, ignored by documentation, or refused.

The names, defaults and ranges are OpenAI's, with `strength`, `alpha_0`, `alpha_tilde` and `timeout` of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from .errors import did_you_mean

NOTHING: tuple[object, ...] = (None,)
# Fields of OpenAI's that would change the answer and are not built, with the values that ask for nothing.
_REFUSED: dict[str, tuple[object, ...]] = {
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
}
_REFUSED_IN_CHAT: dict[str, tuple[object, ...]] = _REFUSED | {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": NOTHING,
    "prediction": NOTHING,
    "reasoning_effort": NOTHING,
    "verbosity": NOTHING,
    "web_search_options": NOTHING,
}
_REFUSED_IN_COMPLETIONS: dict[str, tuple[object, ...]] = _REFUSED | {
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
}
# Fields of OpenAI's that do not change the answer.
IGNORED = frozenset(
    {"user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier", "prompt_cache_key",
     "prompt_cache_retention"}
)  # fmt: skip

Finite = Annotated[float, Field(allow_inf_nan=False)]
Dial = Annotated[Finite, Field(ge=0)]
StopString = Annotated[str, StringConstraints(min_length=1, max_length=200)]
# Of a list the first entry that is wrong is enough to say what is: a body may hold half a million of them, and an error
# for each, once per type that the list may have, would keep the event loop busy for many seconds.
NotEmpty = Field(min_length=1, fail_fast=True)


class Strict(BaseModel):
    """A body or a part of one: types are not converted, and unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)
    refused: ClassVar[Mapping[str, tuple[object, ...]]] = {}
    ignored: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _known_fields_only(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name, neutral in cls.refused.items():
            if name in data and data[name] not in neutral:
                raise PydanticCustomError(
                    "unsupported_field",
                    "is not supported here and would change the answer",
                    {"param": name, "got": data[name]},
                )
        left_out = cls.ignored | cls.refused.keys()
        data = {name: value for name, value in data.items() if name not in left_out}
        for name in data:
            if name not in cls.model_fields:
                context = {"param": name, "near": did_you_mean(name, cls.model_fields)}
                raise PydanticCustomError("extra_forbidden", "unknown field", context)
        return data


class StreamOptions(Strict):
    """What a stream has beside the answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Accepted, and not done: it pads chunks and does not change the answer."""


class PolicyFields(Strict):
    """Which policy answers."""

    model: str
    """A name of `GET /v1/models`."""
    strength: Dial | None = None
    """η: 0 is the base policy (at temperature α̃/α₀), 1 what was trained (the default), above 1 extrapolates."""
    alpha_0: Dial | None = None
    """α₀; default the trained one."""
    alpha_tilde: Annotated[Finite, Field(gt=0)] | None = None
    """α̃; default the trained one."""


class GenerationFields(PolicyFields):
    """How an answer is drawn and when it ends."""

    n: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    """Default 1; below 0.0001 the answer is greedy."""
    top_p: Annotated[Finite, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=4)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    timeout: Annotated[Finite, Field(gt=0)] | None = None
    """Seconds after which the answer is no longer wanted; at most the server's own limit."""


class TextPart(Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """A message of a conversation. `developer` is another word for `system`."""

    refused = {"tool_calls": (None, []), "function_call": NOTHING, "audio": NOTHING, "tool_call_id": NOTHING}
    ignored = frozenset({"name", "refusal", "annotations"})

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], NotEmpty]

    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


Messages = Annotated[list[Message], NotEmpty]


class ChatRequest(GenerationFields):
    """The body of POST /v1/chat/completions."""

    refused = _REFUSED_IN_CHAT
    ignored = IGNORED

    messages: Messages
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The same as `max_tokens`; give one of the two."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], NotEmpty]


class CompletionRequest(GenerationFields):
    """The body of POST /v1/completions."""

    refused = _REFUSED_IN_COMPLETIONS
    ignored = IGNORED

    prompt: str | TokenIds | Annotated[list[str], NotEmpty] | Annotated[list[TokenIds], NotEmpty]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class TokenViewRequest(PolicyFields):
    """The body of POST /v1/playground/tokens."""

    messages: Messages
    answer: Annotated[str, Field(min_length=1)] | None = None
    """What to look at; left out, the policy's own greedy answer."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Of that greedy answer."""
    top: Annotated[int, Field(ge=0, le=20)] = 5
    """Likeliest tokens that are listed per position, before and after."""
