"""The magazine's record of clicks and callbacks."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import datetime, timezone


@dataclass(frozen=True)
class Click:
    """One click on a link to the shop."""

    path: str
    placement: str
    click_id: str = field(default_factory=lambda: secrets.token_hex(4))
    made_on: datetime = field(default_factory=lambda: datetime.now(timezone.utc))


@dataclass(frozen=True)
class Callback:
    """A callback from the shop, with the parameters of our callback URL."""

    callback_id: str
    visitor_id: str
    click_id: str
    event: str
    status: str
    trigger: str
    reference: str
    amount: str
    currency: str
    payout: str
    payout_currency: str
    received_on: datetime = field(init=False, default_factory=lambda: datetime.now(timezone.utc))


class Ledger:
    """Keeps clicks and callbacks in memory."""

    def __init__(self) -> None:
        self.clicks: list[Click] = []
        self._callbacks: dict[str, Callback] = {}

    @property
    def callbacks(self) -> list[Callback]:
        """Return the callbacks in the order of their arrival."""
        return list(self._callbacks.values())

    def receive(self, callback: Callback) -> None:
        """Store a callback once: a sender who got no response sends the same one again."""
        self._callbacks.setdefault(callback.callback_id, callback)

    def of_click(self, click: Click) -> list[Callback]:
        """Return the conversions reported for a click."""
        return [
            callback
            for callback in self.callbacks
            if (callback.click_id, callback.event) == (click.click_id, "conversion")
        ]
