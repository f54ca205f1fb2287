"""Variables of a chat template that are fixed for everything a model is trained and used for, such as Qwen3's
`enable_thinking`: written into the template, which an adapter keeps, so that whoever answers with it later need not
know of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import jinja2
import jinja2.meta
from transformers import PreTrainedTokenizerBase

from ..errors import ConfigError, did_you_mean
from .tokenization import chat_template_of

OPTION = "chat_template_kwargs"
"""What the option is called, as in TRL and vLLM."""
_GIVEN = {"messages", "tools", "documents", "add_generation_prompt"}
_MEANT_AS_BOOLEAN = {"yes", "no", "on", "off", "true", "false"}
# transformers' own tag, which marks what an assistant says.
_GENERATION_TAG = re.compile(r"{%[-+]?\s*(?:end)?generation\s*[-+]?%}")


def checked_variables(value: Mapping[str, Any] | str | None) -> dict[str, Any] | None:
    """The variables as plain JSON values; None where there are none.

    Args:
        value: name → value, or the same as a JSON object in a string, as it comes from a command line.

    Raises:
        ConfigError: no JSON object, a name that a template cannot have, or a text where true or false is meant.
    """
    try:
        # There and back: what has no form in JSON has none in the template.
        plain = json.loads(value) if isinstance(value, str) else value
        plain = json.loads(json.dumps(plain, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise _not_an_object(value) from error
    if plain is None or plain == {}:
        return None
    if not isinstance(plain, dict):
        raise _not_an_object(value)
    for name, of_name in plain.items():
        if isinstance(of_name, str) and of_name.casefold() in _MEANT_AS_BOOLEAN:
            # YAML 1.2 reads `no` as a text, and a template takes any text for true.
            raise ConfigError(f"{OPTION}: {name} is the text {of_name!r}.", hint="write true or false, without quotes")
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise ConfigError(f"{OPTION}: {name!r} is no name that a chat template can read.")
    return plain


def fix_variables(tokenizer: PreTrainedTokenizerBase, variables: Mapping[str, Any] | str | None) -> None:
    """Give a tokenizer's chat template (of several the default) fixed values for variables that it reads.

    Args:
        tokenizer: gets a template that begins with the values; none of them can be changed from outside any more.
        variables: as for `checked_variables`; None or nothing leaves the tokenizer as it is.

    Raises:
        ConfigError: see there; or a variable that the template does not read, or one that says what is written.
        DataError: no chat template.
    """
    variables = checked_variables(variables)
    if variables is None:
        return
    template = chat_template_of(tokenizer)
    known = _read_variables(template) - _GIVEN - set(tokenizer.special_tokens_map)
    for name in variables:
        if name not in known:
            near = did_you_mean(name, known) or f"; it has {', '.join(sorted(known)) or 'none that could be set'}"
            where = f"the chat template of {tokenizer.name_or_path!r}"
            raise ConfigError(f"{OPTION}: {where} has no variable {name!r}{near}")
    # Every JSON value is written in Jinja as it is in Python.
    fixed = "".join(f"{{%- set {name} = {value!r} %}}" for name, value in variables.items()) + template
    several = tokenizer.chat_template
    tokenizer.chat_template = several | {"default": fixed} if isinstance(several, dict) else fixed


def _read_variables(template: str) -> set[str]:
    """The names that a template reads and does not make itself."""
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        parsed = environment.parse(_GENERATION_TAG.sub("", template))
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"{OPTION}: the chat template cannot be read: {error}") from error
    return jinja2.meta.find_undeclared_variables(parsed) - {"raise_exception", "strftime_now", "namespace", "dict"}


def _not_an_object(value: Any) -> ConfigError:
    return ConfigError(
        f"{OPTION} must be a mapping of names to values, got {value!r}",
        hint="on a command line as JSON, such as '{\"enable_thinking\": false}'",
    )
