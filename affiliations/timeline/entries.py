"""The entries about clicks, uncredited triggers and callbacks, and what all entries need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Model
from django.utils.formats import localize
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext

from affiliations.callbacks.cancellations import cure_of
from affiliations.dates import in_active_zone
from affiliations.exceptions import Reason
from affiliations.models import (
    Callback,
    CallbackAttempt,
    RecentFilteredClick,
    UncreditedTrigger,
    Visitor,
)
from affiliations.models.accounts import user_display
from affiliations.models.visitor import CLICK_FIELDS, LOST_CLICK_IDS


@dataclass(frozen=True)
class Entry:
    """One event of a timeline, or the status of the visitor now."""

    #: When it happened; ``None`` for the status now.
    on: datetime | None
    text: str
    #: The row that the text is about.
    about: Model
    #: What to do about it; empty if nothing is wrong.
    cure: str = ""


def arrivals(visitor: Visitor) -> Iterator[Entry]:
    names = {"visitor": visitor, "partner": visitor.partner, "url": visitor.entry_point}
    text = _("Visitor %(visitor)s was registered for %(partner)s.")
    if visitor.source == Visitor.Source.API:
        text = _("Your own code registered visitor %(visitor)s for %(partner)s, without a click.")
    elif visitor.is_by_code:
        text = _(
            "Visitor %(visitor)s was registered for %(partner)s by a code on an order, without a "
            "click."
        )
    elif visitor.entry_point:
        text = _("Visitor %(visitor)s clicked a link of %(partner)s to %(url)s.")
    is_by_link = visitor.entry_point and visitor.source == Visitor.Source.LINK
    referrer = is_by_link and _("The referring page is unknown.")
    if visitor.referrer:
        referrer = _("The referring page is %(url)s.") % {"url": visitor.referrer}
    values = {name: getattr(visitor, name) for name in CLICK_FIELDS}
    labels = {"click_id": _("click id")}
    given = ", ".join(
        f"{labels.get(name, name)} {value}" for name, value in values.items() if value
    )
    lost = LOST_CLICK_IDS.get(visitor.lost_click_id, "")
    text = join(
        text % names,
        referrer,
        lost and _(lost),
        given and _("The click has: %(labels)s.") % {"labels": given},
        not (lost or given or visitor.is_by_code)
        and _("The click has no click id and no sub ids."),
        visitor.user is not None
        and _("The visitor is the user %(user)s.") % {"user": user_display(visitor.user)},
        visitor.is_test and _("Test: excluded from reports."),
    )
    yield Entry(visitor.referred_on, text, visitor)
    if (previous := visitor.previous) is not None and not visitor.is_by_code:
        text = _("This click replaced the earlier click of visitor %(visitor)s from %(partner)s.")
        names = {"visitor": previous, "partner": previous.partner}
        yield Entry(visitor.referred_on, text % names, previous)


def filtered(click: RecentFilteredClick) -> Entry:
    names = {"partner": click.partner, "uid": click.uid, "reason": click.reason_display}
    text = _("A click on a link of %(partner)s was not counted: %(reason)s.")
    if click.partner is None:
        text = _("A click with the id “%(uid)s” was not counted: %(reason)s.")
    browser = click.browser and _("The browser is %(browser)s.") % {"browser": click.browser}
    text = join(text % names, browser)
    return Entry(click.clicked_on, text, click, Reason.cure_of(click.reason))


def uncredited(row: UncreditedTrigger) -> Entry:
    names = {
        "trigger": row.trigger,
        "reason": Reason.display(row.reason),
        "count": row.count,
        "on": local(row.first_on),
    }
    times = ngettext("%(count)s time (since %(on)s).", "%(count)s times (since %(on)s).", row.count)
    text = join(
        _("“%(trigger)s” fired but was not credited: %(reason)s.") % names,
        row.count > 1 and times % names,
        reference_text(row.reference),
    )
    return Entry(row.last_on, text, row, Reason.cure_of(row.reason))


#: The length to which a partner's response is cut.
_QUOTED = 200

_WAITING = {
    "suspended": gettext_noop("Paused, because callbacks are suspended (since %(since)s)."),
    "paused": gettext_noop("Paused, because the partner’s server is busy (until %(until)s)."),
}

_CALLBACK_STATUSES = {
    Callback.Status.QUEUED: gettext_noop("Queued (next attempt: %(next)s)."),
    Callback.Status.DELIVERED: gettext_noop("Accepted by the partner (%(delivered)s)."),
    Callback.Status.EXHAUSTED: gettext_noop("Gave up: no more retries."),
    Callback.Status.CANCELLED: gettext_noop("Cancelled. Reason: %(reason)s"),
}


def callback_entries(callback: Callback) -> Iterator[Entry]:
    names = {
        "callback": callback.pk,
        "event": callback.get_event_display(),
        "url": callback.url,
        "next": local(callback.next_attempt_on),
        "since": local(callback.subscription.callbacks_suspended_on),
        "until": local(callback.subscription.callbacks_paused_until),
        "delivered": local(callback.delivered_on),
        "reason": callback.reason_display or "-",
    }
    text = _("Callback %(callback)s, event “%(event)s”: %(url)s")
    if not callback.url:
        text = _("Callback %(callback)s, event “%(event)s”. Its URL was erased.")
    own = _CALLBACK_STATUSES[Callback.Status(callback.status)]
    status = _(_WAITING.get(callback.waits_for, own))
    cure = str(cure_of(callback.reason)) if callback.status == Callback.Status.CANCELLED else ""
    yield Entry(callback.created_on, join(text % names, status % names), callback, cure)
    for attempt in callback.attempts.all():
        yield Entry(attempt.started_on, attempt_text(attempt), attempt, attempt.cure)


def attempt_text(attempt: CallbackAttempt) -> str:
    names = {
        "number": attempt.number,
        "callback": attempt.callback_id,
        "duration": attempt.duration_ms,
        "error": attempt.get_error_display(),
    }
    text = _("Attempt %(number)s of callback %(callback)s was accepted after %(duration)s ms.")
    if attempt.error:
        text = _(
            "Attempt %(number)s of callback %(callback)s failed after %(duration)s ms: %(error)s."
        )
    response = Truncator(" ".join(attempt.response_excerpt.split())).chars(_QUOTED)
    return join(
        text % names,
        attempt.manual and _("Sent manually."),
        attempt.status_code is not None and f"HTTP {attempt.status_code}.",
        attempt.message,
        response and _("Response: %(answer)s") % {"answer": response},
    )


def join(*sentences: str | bool) -> str:
    """Join the sentences, without those that are false or empty because they do not apply."""
    return " ".join(str(sentence) for sentence in sentences if sentence)


def reference_text(reference: str) -> str:
    return reference and _("The reference is %(reference)s.") % {"reference": reference}


def reason_text(reason: str) -> str:
    return reason and _("Reason: %(reason)s") % {"reason": reason}


def local(moment: datetime | None) -> str:
    return "-" if moment is None else str(localize(in_active_zone(moment)))
