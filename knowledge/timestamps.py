"""Times in files: seconds as a number, or a date with the time of day. No reader depends on the machine's time zone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


def seconds(text: str) -> float:
    """Return seconds from an origin that all times of a file share.

    Args:
        text: a number, or a date as ISO 8601 writes it; one without a zone is meant in UTC.

    Raises:
        ValueError: it is neither.

    >>> seconds("12.5"), seconds("1970-01-01 00:00:01.5"), seconds("1970-01-01T02:00:01+02:00")
    (12.5, 1.5, 1.0)
    """
    plain = text.strip()
    try:
        return float(plain)
    except ValueError:
        pass
    try:
        when = datetime.fromisoformat(plain.removesuffix("UTC").rstrip())
    except ValueError:
        raise ValueError(
            f"{text!r} is no time; it must be a number of seconds, or a date such as 2024-05-10 12:00:00.5+00:00"
        ) from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def of_request(entry: Mapping[str, Any]) -> float:
    """Return the arrival of a line of a trace of requests to a language model [s].

    Args:
        entry: with ``timestamp``, in milliseconds as Mooncake writes it; in seconds where the line has a ``chat_id``,
            as in Alibaba's traces of Bailian (qwen-bailian-usagetraces-anon).

    Raises:
        LookupError, TypeError, ValueError: there is no such number.
    """
    when = float(entry["timestamp"])
    return when if is_bailian(entry) else when / 1e3


def is_bailian(entry: Mapping[str, Any]) -> bool:
    """Whether a line is of Bailian's traces, which count in seconds and hash blocks of 16 tokens."""
    return "chat_id" in entry
