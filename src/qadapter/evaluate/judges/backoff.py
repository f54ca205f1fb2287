"""How long to wait before a request is repeated."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Doubled from attempt to attempt, seconds.
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0


def backoff_seconds(attempt: int, jitter: float) -> float:
    """Exponential back-off: between half of and all of min(60, 2^attempt) seconds.

    Args:
        attempt: 0 before the first repetition.
        jitter: 0 to 1; random, so that requests turned away together do not come back together.
    """
    return min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * (0.5 + 0.5 * jitter)


def retry_after_seconds(header: str | None, now: datetime | None = None) -> float:
    """What a Retry-After header asks for (RFC 9110, 10.2.3): seconds, or a date; 0 without one that can be read.

    Args:
        header: its value.
        now: the time, with a time zone; default the present.
    """
    if header is None:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except ValueError:
            return 0.0
        # A date without a zone is in GMT, as HTTP has it.
        seconds = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
