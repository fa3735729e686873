"""An attempt at sending a callback, before it is a row."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from affiliations.callbacks.transport import Result
from affiliations.models import Callback, CallbackAttempt


@dataclass(frozen=True)
class Sent:
    """One attempt that has ended."""

    callback: Callback
    started_on: datetime
    result: Result

    @property
    def attempt(self) -> CallbackAttempt:
        """The row that tells of it."""
        return CallbackAttempt(
            callback=self.callback,
            number=self.callback.attempt_count,
            manual=self.callback.is_manual,
            started_on=self.started_on,
            duration_ms=self.result.duration_ms,
            status_code=self.result.status_code,
            error=self.result.error,
            message=self.result.message,
            response_excerpt=self.result.excerpt,
        )

    @property
    def is_the_partners(self) -> bool:
        """Whether it says something of real callbacks: no test of any kind, no fault of ours."""
        conversion = self.callback.conversion
        is_test = conversion is None or conversion.is_test
        return not is_test and not self.result.is_our_fault
