"""Times as people and tables read them."""

from __future__ import annotations

from datetime import datetime


def instant(text: str | None) -> float | None:
    """Return an RFC 3339 time as seconds since the epoch; None if it is none."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None


def age(since: str | None, now: float) -> str:
    """Return how long ago a time was, as kubectl writes it; `<unknown>` without a time."""
    when = instant(since)
    return "<unknown>" if when is None else human(now - when)


def human(seconds: float) -> str:
    """Return a duration the way Kubernetes does: two units at most, fewer as it grows."""
    total = int(seconds)
    if total < -1:
        return "<invalid>"
    if total < 0:
        return "0s"
    if total < 120:
        return f"{total}s"
    minutes, second = divmod(total, 60)
    if minutes < 10:
        return f"{minutes}m{second}s" if second else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    hours, minute = divmod(minutes, 60)
    if hours < 8:
        return f"{hours}h{minute}m" if minute else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    days, hour = divmod(hours, 24)
    if days < 8:
        return f"{days}d{hour}h" if hour else f"{days}d"
    if days < 365 * 2:
        return f"{days}d"
    years, rest = divmod(days, 365)
    if years < 8:
        return f"{years}y{rest}d" if rest else f"{years}y"
    return f"{years}y"
