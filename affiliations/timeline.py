"""
The timeline of a visitor, in words: each event that was credited or not, with the reason.

``find`` returns the ids of visitors and ``build`` their timelines, in the active language.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django.db.models import Model, Prefetch, QuerySet
from django.utils import timezone
from django.utils.formats import localize, number_format
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext

from affiliations.amounts import money
from affiliations.conf import settings
from affiliations.exceptions import Reason
from affiliations.models import (
    Adjustment,
    Callback,
    CallbackAttempt,
    Conversion,
    Subscription,
    UncreditedTrigger,
    Visitor,
)
from affiliations.models.accounts import user_display
from affiliations.models.visitor import CLICK_FIELDS, LOST_CLICK_IDS

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser

LIMIT = 20


@dataclass(frozen=True)
class Entry:
    """One event of a timeline, or the status of the visitor now."""

    #: When it happened; ``None`` for the status now.
    on: datetime | None
    text: str
    #: The row that the text is about.
    about: Model


@dataclass(frozen=True)
class Timeline:
    """The history of one visitor, from the click until now."""

    visitor: Visitor
    entries: list[Entry]


def find(
    *,
    visitor: int | None = None,
    user: AbstractBaseUser | None = None,
    reference: str = "",
    click_id: str = "",
    limit: int = LIMIT,
) -> list[int]:
    """
    Return the ids of the visitors that match one of the arguments, the latest first.

    Args:
        visitor: The id of a visitor.
        user: A user; visitors with this user, and visitors with a conversion that this user bought.
        reference: Your own id of an event, whether it was credited or not.
        click_id: The partner's id of the click.
        limit: Return at most this many ids, and one more if there are more.

    Returns:
        The ids. MariaDB also finds references and click ids that differ in case or accents only.
    """
    matches: list[QuerySet[Any]] = []
    if visitor is not None:
        matches.append(Visitor.objects.filter(pk=visitor))
    if user is not None:
        matches += [model._default_manager.filter(user=user.pk) for model in (Visitor, Conversion)]
    if reference:
        matches += [
            model._default_manager.filter(reference=reference[:255])
            for model in (Conversion, UncreditedTrigger)
        ]
    if click_id:
        matches.append(Visitor.objects.filter(click_id=click_id))
    found: set[int] = set()
    for rows in matches:
        key = "pk" if rows.model is Visitor else "visitor_id"
        ids = rows.order_by(f"-{key}").values_list(key, flat=True).distinct()
        found.update(ids[: limit + 1])
    return sorted(found, reverse=True)[: limit + 1]


def build(visitor_ids: Collection[int]) -> list[Timeline]:
    """
    Return the timelines of these visitors, the latest first, in the active language.

    It takes one query for the visitors and seven for their rows, however long the timelines are.
    """
    visitors = (
        Visitor.objects.filter(pk__in=visitor_ids)
        .select_related("partner", "user", "previous__partner")
        .prefetch_related(
            _in_order("displaced_by", Visitor, "partner"),
            _in_order("lost_to_codes", Conversion, "partner"),
            "uncredited_triggers",
            _in_order(
                "conversions",
                Conversion,
                "user",
                "decided_by",
                "credited_by",
                "settlement",
                "subscription",
                "instead_of__partner",
            ),
            _in_order("conversions__adjustments", Adjustment, "settlement", "created_by"),
            _in_order("conversions__callbacks", Callback, "subscription"),
            Prefetch("conversions__callbacks__attempts", CallbackAttempt.objects.order_by("pk")),
        )
    )
    now = timezone.now()
    return [
        Timeline(visitor, [*_past(visitor), _present(visitor, now)])
        for visitor in visitors.order_by("-pk")
    ]


def _in_order(path: str, model: type[Model], *related: str) -> Prefetch[Any]:
    rows: QuerySet[Any] = model._default_manager.select_related(*related)
    return Prefetch(path, rows.order_by("pk"))


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


def _callback_entries(callback: Callback) -> Iterator[Entry]:
    names = {
        "callback": callback.pk,
        "event": callback.get_event_display(),
        "url": callback.url,
        "next": _local(callback.next_attempt_on),
        "since": _local(callback.subscription.callbacks_suspended_on),
        "until": _local(callback.subscription.callbacks_paused_until),
        "delivered": _local(callback.delivered_on),
        "reason": callback.reason_display or "-",
    }
    text = _("Callback %(callback)s, event “%(event)s”: %(url)s")
    if not callback.url:
        text = _("Callback %(callback)s, event “%(event)s”. Its URL was erased.")
    own = _CALLBACK_STATUSES[Callback.Status(callback.status)]
    status = _(_WAITING.get(callback.waits_for, own))
    yield Entry(callback.created_on, _join(text % names, status % names), callback)
    for attempt in callback.attempts.all():
        yield Entry(attempt.started_on, _attempt(attempt), attempt)


def _attempt(attempt: CallbackAttempt) -> str:
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
    return _join(
        text % names,
        attempt.manual and _("Sent manually."),
        attempt.status_code is not None and f"HTTP {attempt.status_code}.",
        attempt.message,
        response and _("Response: %(answer)s") % {"answer": response},
    )


def _conversion_entries(conversion: Conversion) -> Iterator[Entry]:
    names = {
        "trigger": conversion.trigger,
        "conversion": conversion.pk,
        "user": conversion.user and user_display(conversion.user),
        "amount": money(conversion.amount or Decimal(), conversion.currency),
        "staff": conversion.credited_by_display or "-",
        "reason": conversion.credit_reason,
    }
    text = _join(
        _("“%(trigger)s” was recorded as conversion %(conversion)s.") % names,
        conversion.credit_reason
        and _("It was credited manually by %(staff)s (%(reason)s).") % names,
        _code(conversion),
        _reference(conversion.reference),
        not conversion.released
        and conversion.dedupe_key.startswith("v:")
        and _("It counts once per visitor, so it cannot be credited to this visitor again."),
        conversion.user is not None and _("The buyer is the user %(user)s.") % names,
        conversion.amount is not None and _("The amount is %(amount)s.") % names,
        _payout(conversion),
        conversion.is_test and _("Test: excluded from reports."),
    )
    yield Entry(conversion.created_on, text, conversion)
    yield _decision(conversion)
    yield from _settlement_entries(conversion)
    for callback in conversion.callbacks.all():
        yield from _callback_entries(callback)


def _code(conversion: Conversion) -> str:
    """Return by which code the conversion was credited, and instead of whom."""
    beaten = conversion.instead_of
    if beaten is None:
        text = _("It was credited by the code %(code)s on the order.")
        return conversion.code and text % {"code": conversion.code}
    text = _(
        "It was credited by the code %(code)s on the order, which comes before the click of "
        "visitor %(visitor)s from %(partner)s."
    )
    return text % {"code": conversion.code, "visitor": beaten, "partner": beaten.partner}


def _lost(conversion: Conversion) -> Entry:
    """Return that another partner's code has come before the click of this visitor."""
    names = {
        "trigger": conversion.trigger,
        "conversion": conversion.pk,
        "partner": conversion.partner,
        "code": conversion.code,
    }
    text = _join(
        _(
            "“%(trigger)s” was credited to %(partner)s as conversion %(conversion)s, by the code "
            "%(code)s on the order, which comes before this click."
        )
        % names,
        _reference(conversion.reference),
    )
    return Entry(conversion.created_on, text, conversion)


def _payout(conversion: Conversion) -> str:
    if conversion.payout_type == Subscription.PayoutType.NONE:
        return _("No commission.")
    if conversion.payout is None:
        return _("The payout could not be calculated.")
    payout = {"payout": money(conversion.payout, conversion.payout_currency)}
    if conversion.is_custom:
        return _("The payout is %(payout)s, calculated by this site.") % payout
    if conversion.payout_type == Subscription.PayoutType.FIXED:
        return _("The payout is %(payout)s, a fixed amount.") % payout
    percentage = number_format((conversion.payout_value or Decimal()).normalize())
    text = _("The payout is %(payout)s, %(percentage)s %% of the amount.")
    return text % (payout | {"percentage": percentage})


#: By status: the text of a decision by a user, and of any other.
_DECISIONS = {
    Conversion.Status.PENDING: (
        gettext_noop("Conversion %(conversion)s was reopened by %(user)s and is pending again."),
        gettext_noop("Conversion %(conversion)s is pending: approve or reject it."),
    ),
    Conversion.Status.APPROVED: (
        gettext_noop("Conversion %(conversion)s was approved by %(user)s."),
        gettext_noop("Conversion %(conversion)s was approved automatically."),
    ),
    Conversion.Status.REJECTED: (
        gettext_noop("Conversion %(conversion)s was rejected by %(user)s."),
        gettext_noop("Conversion %(conversion)s was rejected automatically."),
    ),
}


def _decision(conversion: Conversion) -> Entry:
    names: dict[str, object] = {"conversion": conversion.pk, "user": conversion.decided_by_display}
    if conversion.approve_on is not None:
        names["on"] = _local(conversion.approve_on)
        text = _(
            "Conversion %(conversion)s is pending and will be approved on %(on)s unless it is "
            "rejected."
        )
    else:
        by_user, by_rule = _DECISIONS[Conversion.Status(conversion.status)]
        text = _(by_user if conversion.decided_by_display else by_rule)
    review_reason = {"reason": Reason.display(conversion.review_reason)}
    text = _join(
        text % names,
        _reason(conversion.reason_display),
        conversion.needs_review and _("Only staff can approve it: %(reason)s.") % review_reason,
        conversion.review_reason
        and not conversion.needs_review
        and _("It needed review. Reason: %(reason)s") % {"reason": conversion.review_display},
    )
    return Entry(conversion.decided_on or conversion.created_on, text, conversion)


def _settlement_entries(conversion: Conversion) -> Iterator[Entry]:
    if (settlement := conversion.settlement) is not None:
        names = {"conversion": conversion.pk, "settlement": settlement}
        text = _("Conversion %(conversion)s was added to payout statement “%(settlement)s”.")
        yield Entry(settlement.created_on, text % names, settlement)
    for adjustment in conversion.adjustments.all():
        names = {
            "conversion": conversion.pk,
            "change": money(adjustment.payout, adjustment.currency),
            "amount": money(adjustment.amount or Decimal(), conversion.currency),
            "user": adjustment.created_by_display,
            "settlement": adjustment.settlement,
        }
        text = _("The payout of conversion %(conversion)s was adjusted by %(change)s.")
        if adjustment.created_by_display:
            text = _(
                "The payout of conversion %(conversion)s was adjusted by %(change)s (%(user)s)."
            )
        amount = adjustment.amount and _("The amount changed by %(amount)s.") % names
        status = _("It is in statement “%(settlement)s”.")
        if adjustment.settlement is None:
            status = _("It is not in a statement yet.")
        reason = _reason(adjustment.reason_display or "-")
        text = _join(text % names, amount or "", reason, status % names)
        yield Entry(adjustment.created_on, text, adjustment)


def _past(visitor: Visitor) -> list[Entry]:
    """Return the events by time; those of the same time are listed causes first."""
    entries = [*_arrival(visitor)]
    entries += [_refusal(row) for row in visitor.uncredited_triggers.all()]
    for conversion in visitor.conversions.all():
        entries += _conversion_entries(conversion)
    entries += map(_lost, visitor.lost_to_codes.all())
    if visitor.closed_on is not None:
        text = _("Tracking ended: no more conversions can be credited to this visitor.")
        if _earning_periods(visitor):
            text = _("Tracking ended, apart from the earning period.")
        if visitor.closed_on != visitor.stopped_on:
            entries.append(Entry(visitor.closed_on, text, visitor))
    if visitor.stopped_on is not None:
        text = _("Staff stopped tracking this visitor.")
        entries.append(Entry(visitor.stopped_on, text, visitor))
    entries += [
        Entry(
            other.referred_on,
            _("This click was replaced by the click of visitor %(visitor)s from %(partner)s.")
            % {"visitor": other, "partner": other.partner},
            other,
        )
        for other in visitor.displaced_by.all()
        if not other.is_by_code  # See _lost().
    ]
    return sorted(entries, key=lambda entry: entry.on or visitor.referred_on)


def _arrival(visitor: Visitor) -> Iterator[Entry]:
    names = {"visitor": visitor, "partner": visitor.partner, "url": visitor.entry_point}
    text = _("Visitor %(visitor)s was registered for %(partner)s.")
    if visitor.source == Visitor.Source.API:
        text = _("Your own code registered visitor %(visitor)s for %(partner)s, without a click.")
    elif visitor.is_by_code:
        text = _("Visitor %(visitor)s came to %(partner)s by a code on an order, without a click.")
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
    text = _join(
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


def _refusal(row: UncreditedTrigger) -> Entry:
    names = {
        "trigger": row.trigger,
        "reason": Reason.display(row.reason),
        "count": row.count,
        "on": _local(row.first_on),
    }
    times = ngettext("%(count)s time (since %(on)s).", "%(count)s times (since %(on)s).", row.count)
    text = _join(
        _("“%(trigger)s” fired but was not credited: %(reason)s.") % names,
        row.count > 1 and times % names,
        _reference(row.reference),
    )
    return Entry(row.last_on, text, row)


def _present(visitor: Visitor, now: datetime) -> Entry:
    """Return whether the visitor can be credited, until or since when, and why."""
    window, refusal = visitor.partner.attribution_window, visitor.refusal(now)
    names = {
        "end": "" if window is None else _local(visitor.referred_on + window),
        "reason": "" if refusal is None else refusal.label,
    }
    periods = _earning_periods(visitor)
    if refusal is not None and periods:
        status = _("The click itself can no longer be credited: %(reason)s.")
    elif refusal is Reason.WINDOW_EXPIRED:
        status = _(
            "No more conversions can be credited to this visitor: %(reason)s (since %(end)s)."
        )
    elif refusal is not None:
        status = _("No more conversions can be credited to this visitor: %(reason)s.")
    elif window is not None:
        status = _("Conversions can be credited to this visitor (until %(end)s).")
    else:
        status = _("Conversions can be credited to this visitor without a time limit.")
    has_conversions = bool(visitor.conversions.all())
    text = _join(
        not visitor.uncredited_triggers.all()
        and not visitor.lost_to_codes.all()
        and not has_conversions
        and _("No trigger has fired for this visitor yet."),
        settings.first_click_wins
        and not visitor.is_test
        and not has_conversions
        and _(
            "First click model: an earlier click in the same browser is credited before this click."
        ),
        status % names,
        *(_earning_period(rule, first_on, now) for rule, first_on in periods),
    )
    return Entry(None, text, visitor)


def _earning_periods(visitor: Visitor) -> list[tuple[Subscription, datetime]]:
    """Return the subscriptions with an earning period, each with the start of the visitor's."""
    if visitor.stopped_on is not None or not visitor.partner.active:
        return []
    first: dict[Subscription, datetime] = {}
    for conversion in visitor.conversions.all():
        rule = conversion.subscription
        if rule.active and rule.has_earning_period and not conversion.released:
            first[rule] = min(first.get(rule, conversion.created_on), conversion.created_on)
    return list(first.items())


def _earning_period(rule: Subscription, first_on: datetime, now: datetime) -> str:
    end = rule.earning_ends_on(first_on)
    last = None if end is None else localize(end - timedelta(days=1))
    names = {"trigger": rule.trigger, "last": last}
    if end is None:
        text = _(
            "The earning period of “%(trigger)s” has no end: later orders are credited if your "
            "site states the visitor or the user."
        )
    elif rule.is_earning(first_on, now):
        text = _(
            "The earning period of “%(trigger)s” runs until %(last)s (day included): later orders "
            "are credited if your site states the visitor or the user."
        )
    else:
        text = _("The earning period of “%(trigger)s” has ended (last day: %(last)s).")
    return text % names


def _join(*sentences: str | bool) -> str:
    """Join the sentences, without those that are false or empty because they do not apply."""
    return " ".join(str(sentence) for sentence in sentences if sentence)


def _reference(reference: str) -> str:
    return reference and _("The reference is %(reference)s.") % {"reference": reference}


def _reason(reason: str) -> str:
    return reason and _("Reason: %(reason)s") % {"reason": reason}


def _local(moment: datetime | None) -> str:
    if moment is not None and timezone.is_aware(moment):
        moment = timezone.localtime(moment)
    return "-" if moment is None else str(localize(moment))
