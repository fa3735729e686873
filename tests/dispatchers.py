from __future__ import annotations

from collections.abc import Sequence


def ignored(callback_ids: Sequence[int]) -> None:
    """Send nothing: the callbacks stay queued, where a test can look at them."""
