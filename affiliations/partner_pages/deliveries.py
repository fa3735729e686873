"""
What the partner may see of callbacks: when, for what event, with what result, and what to do.

A row names no customer: it has neither a reference nor an amount. Of a subscription's callback URL
only the host is shown, since the path and query may contain secrets. Of an error only the kind is
shown. The URLs, messages and responses of callbacks are not even read from the database.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from django.db.models import Prefetch
from django.utils.translation import gettext_lazy as _

from affiliations.models import Callback, CallbackAttempt, Partner
from affiliations.models.delivery_errors import advice_for

#: The number of callbacks that the page lists.
LATEST = 15

Error, Status = CallbackAttempt.Error, Callback.Status

#: The errors whose texts for staff mention "the partner’s server", in words for the partner.
_OWN_ERRORS: dict[str, Any] = {
    Error.TIMEOUT: _("your server did not respond in time"),
    Error.HTTP_STATUS: _("your server returned an error"),
}

#: The states of an endpoint, in words.
_STATES: dict[str, Any] = {
    "suspended": _("suspended"),
    "paused": _("paused"),
    "failing": _("failing"),
    "accepted": _("OK"),
}


def endpoints(partner: Partner) -> list[SimpleNamespace]:
    """Return the partner's endpoints, one for each subscription: their states and last errors."""
    rows: Any = partner.subscriptions.annotate(due_on=Callback.objects.first_due()).order_by("pk")
    return [_endpoint(row) for row in rows if row.is_failing or (row.active and row.callback_url)]


def latest(partner: Partner) -> list[SimpleNamespace]:
    """Return the partner's latest callbacks, tests included, newest first."""
    attempts = CallbackAttempt.objects.order_by("-number")
    rows = (
        partner.callbacks.select_related("subscription")
        .only(
            "partner",  # which Django 5.2 would read for each row
            "event",
            "status",
            "attempt_count",
            "lease_token",
            "next_attempt_on",
            "created_on",
            "is_test",
            "subscription__trigger",
            "subscription__callbacks_suspended_on",
            "subscription__callbacks_paused_until",
        )
        .prefetch_related(
            Prefetch("attempts", attempts.only("callback", "number", "error", "status_code"))
        )
        .order_by("-pk")[:LATEST]
    )
    return [_callback(row) for row in rows]


def advice(rows: Iterable[SimpleNamespace]) -> list[tuple[str, str]]:
    """Return each error of these rows once, in words, and what to do about it."""
    found = {row.error: row.advice for row in rows if row.error}
    return list(found.items())


def _endpoint(row: Any) -> SimpleNamespace:
    if row.is_suspended:
        state = "suspended"
    elif row.is_paused:
        state = "paused"
    else:
        state = "failing" if row.failure_count else "accepted"
    moments = [moment for moment in (row.due_on, row.callbacks_paused_until) if moment]
    return SimpleNamespace(
        trigger=row.trigger,
        host=_host(row.callback_url),
        state=state,
        state_display=_STATES[state],
        is_failing=row.is_failing,
        failures=row.failure_count,
        failing_since=row.failing_since,
        suspended_on=row.callbacks_suspended_on,
        next_on=max(moments, default=None),
        error=error_text(row.last_error, row.last_status_code),
        advice=advice_for(row.last_error, row.last_status_code),
    )


def _callback(row: Callback) -> SimpleNamespace:
    waits_for = row.waits_for
    # A callback that was accepted or cancelled needs no attention, whatever came before.
    is_open = row.status in (Status.QUEUED, Status.EXHAUSTED)
    attempts = row.attempts.all()[:1] if is_open else ()
    error, code = next(((one.error, one.status_code) for one in attempts), ("", None))
    # While it is being sent, the time is the end of the lease.
    is_scheduled = row.status == Status.QUEUED and not waits_for and not row.lease_token
    return SimpleNamespace(
        created_on=row.created_on,
        trigger=row.subscription.trigger,
        event=row.get_event_display(),
        is_test=row.is_test and row.event != Callback.Event.TEST,
        attempts=row.attempt_count,
        status=waits_for or row.status,
        status_display=_STATES[waits_for] if waits_for else row.get_status_display(),
        next_on=row.next_attempt_on if is_scheduled else None,
        error=error_text(error, code),
        advice=advice_for(error, code),
    )


def error_text(error: str, status_code: int | None) -> str:
    """Return an error in words, with the status of the response; empty for none."""
    text = str(_OWN_ERRORS.get(error) or dict(Error.choices).get(error, ""))
    return f"{text} (HTTP {status_code})" if error and status_code else text


def _host(url: str) -> str:
    """Return the host of a callback URL; empty if it has none, as 0.12 stored any text."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
