from __future__ import annotations

from collections.abc import Sequence


def ignored(callback_ids: Sequence[int]) -> None:
    """Send nothing: the callbacks stay queued, where a test can look at them."""


#: What ``remembered`` was given.
ids: list[int] = []


def failing(callback_ids: Sequence[int]) -> None:
    """Fail, as an engine does that is misconfigured."""
    raise RuntimeError("no engine")


def remembered(callback_ids: Sequence[int]) -> None:
    """Send nothing, and write down what was handed over."""
    ids.extend(callback_ids)
