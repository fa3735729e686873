"""The timelines of visitors: from the click until now."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.db.models import Model, Prefetch, QuerySet
from django.utils import timezone
from django.utils.formats import localize
from django.utils.translation import gettext as _

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
from affiliations.timeline.conversions import conversion_entries, lost_to_code
from affiliations.timeline.entries import Entry, arrivals, join, local, uncredited

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser


LIMIT = 20


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


def _past(visitor: Visitor) -> list[Entry]:
    """Return the events by time; those of the same time are listed causes first."""
    entries = [*arrivals(visitor)]
    entries += [uncredited(row) for row in visitor.uncredited_triggers.all()]
    for conversion in visitor.conversions.all():
        entries += conversion_entries(conversion)
    entries += map(lost_to_code, visitor.lost_to_codes.all())
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
        if not other.is_by_code  # See lost_to_code().
    ]
    return sorted(entries, key=lambda entry: entry.on or visitor.referred_on)


def _present(visitor: Visitor, now: datetime) -> Entry:
    """Return whether the visitor can be credited, until or since when, and why."""
    window, refusal = visitor.partner.attribution_window, visitor.refusal(now)
    names = {
        "end": "" if window is None else local(visitor.referred_on + window),
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
    text = join(
        not visitor.uncredited_triggers.all()
        and not visitor.lost_to_codes.all()
        and not has_conversions
        and _("No trigger has fired for this visitor yet."),
        settings.first_click_wins
        and not visitor.is_test
        and not has_conversions
        and _(
            "First click model: an earlier click in the same browser takes precedence over this "
            "click."
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
