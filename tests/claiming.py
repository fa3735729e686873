"""Claims of callbacks as if nobody limited them."""

from __future__ import annotations

from collections.abc import Collection

from affiliations.callbacks import claims
from affiliations.callbacks.slots import Slots
from affiliations.models import Callback


def claim(limit: int = 100, ids: Collection[int] | None = None) -> list[Callback]:
    """Claim callbacks, of one partner as many as there are."""
    claimed: list[Callback] = []
    while found := claims.claim(limit - len(claimed), Slots(), ids):
        claimed += found
    return claimed
