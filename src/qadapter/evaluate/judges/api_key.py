"""The key of a judge's server: read from the environment, sent in one header, and shown nowhere."""

from __future__ import annotations

import json
import os
from urllib.parse import quote

from ...errors import ConfigError


class ApiKey:
    """A key that no text of ours can show: it has no repr, and `redact` takes it out of what a server wrote.

    Args:
        variable: the environment variable that holds it; unset or empty where the server needs none.

    Raises:
        ConfigError: what the variable holds cannot be sent as a header; the value is not shown.
    """

    def __init__(self, variable: str) -> None:
        self.variable = variable
        self._value = os.environ.get(variable, "").strip()
        # http.client would refuse it with an error that shows it.
        if not all("!" <= character <= "~" for character in self._value):
            raise ConfigError(
                f"the environment variable {variable} holds a space, a line break or a character beyond ASCII inside "
                "the key.",
                hint="set it again, to the key alone",
            )

    def __repr__(self) -> str:
        return f"ApiKey({self.variable!r}, {'set' if self else 'not set'})"

    def __bool__(self) -> bool:
        return bool(self._value)

    def headers(self) -> dict[str, str]:
        """The header that carries it; none where it is not set."""
        return {"Authorization": f"Bearer {self._value}"} if self else {}

    def redact(self, text: str) -> str:
        """The text without the key, also where it was written as in JSON or in a URL."""
        if self:
            for form in (self._value, json.dumps(self._value)[1:-1], quote(self._value, safe="")):
                text = text.replace(form, "[key]")
        return text
