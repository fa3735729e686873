"""
What the partner may see of callbacks: when, for what event, with what result, and what to do.

A row names no customer: it has neither a reference nor an amount. Of a callback URL only the host
is shown, since its path and query may have secrets, and of an error only its kind, since messages
and the bodies of responses may have anything. None of these is read from the database.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from django.db.models import Prefetch
from django.utils.translation import gettext_lazy as _

from affiliations.callbacks import suspension
from affiliations.models import Callback, CallbackAttempt, Partner

#: The number of callbacks that the page lists.
LATEST = 15

Error, Status = CallbackAttempt.Error, Callback.Status

_GONE = 410

#: The errors that staff read of "the partner's server", as the partner reads them.
_OWN_ERRORS: dict[str, Any] = {
    Error.TIMEOUT: _("your server did not respond in time"),
    Error.HTTP_STATUS: _("your server returned an error"),
}

#: What the partner can do about an error. A status of HTTP has advice of its own.
ADVICE: dict[str, Any] = {
    Error.TIMEOUT: _(
        "Answer as soon as you have stored the callback, and do slow work afterwards. Check that "
        "your server can be reached from outside your network."
    ),
    Error.DEADLINE: _(
        "Answer as soon as you have stored the callback, and do slow work afterwards. Redirects "
        "take time, too: give us the final URL."
    ),
    Error.DNS: _(
        "Check the host name and its DNS records. If your server has moved, give us the new URL."
    ),
    Error.CONNECT: _("Check that your server is running, and that no firewall blocks this site."),
    Error.TLS: _(
        "Check the certificate of your server: it must be valid for this host name, not have "
        "expired, and come with its intermediate certificates."
    ),
    Error.BLOCKED_ADDRESS: _(
        "The host name leads to an address that is not public. Correct its DNS records, or give "
        "us another URL."
    ),
    Error.REDIRECTS: _("Give us the final URL, with https."),
    Error.PROTOCOL: _("Check that a web server answers at this host and port."),
    Error.HTTP_STATUS: _("Answer with a 2xx status as soon as you have stored the callback."),
    Error.CONFIGURATION: _("You need not do anything. If it lasts, tell your contact at the site."),
    Error.LOST: _(
        "Check in the log of your server why the response broke off. If it was not on your side, "
        "tell your contact at the site."
    ),
}
_REFUSED = _(
    "Your server refused the callback. Check the path and the parameters of the callback URL, and "
    "let callbacks pass without a login or a bot check."
)
_FAULTY = _("Look for the error in the log of your server.")
_NEVER_AGAIN = _(
    "With 410 your server says “never again”. To get such a callback once more, ask your contact "
    "at the site."
)
_BUSY = _(
    "Your server, or the gateway before it, is busy or down. Get it to answer with a 2xx status "
    "again."
)

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
        advice=_advice(row.last_error, row.last_status_code),
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
        advice=_advice(error, code),
    )


def error_text(error: str, status_code: int | None) -> str:
    """Return an error in words, with the status of the response; empty for none."""
    text = str(_OWN_ERRORS.get(error) or dict(Error.choices).get(error, ""))
    return f"{text} (HTTP {status_code})" if error and status_code else text


def _advice(error: str, status_code: int | None) -> str:
    if error != Error.HTTP_STATUS or status_code is None:
        return str(ADVICE.get(error, ""))
    if status_code == _GONE:
        return str(_NEVER_AGAIN)
    if status_code in suspension.BUSY:
        return str(_BUSY)
    by_class = {3: ADVICE[Error.REDIRECTS], 4: _REFUSED, 5: _FAULTY}
    return str(by_class.get(status_code // 100, ADVICE[Error.HTTP_STATUS]))


def _host(url: str) -> str:
    """Return the host of a callback URL; empty if it has none, as 0.12 stored any text."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
