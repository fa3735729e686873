"""Sentences about the partners who were notified of a conversion, and those who will be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.utils.translation import gettext

from affiliations.callbacks import outbox
from affiliations.callbacks.outbox import Event

if TYPE_CHECKING:
    from collections.abc import Iterable

    from affiliations.models import Conversion, Partner


def of_rejection(conversion: Conversion) -> list[str]:
    """Say of what the partner was notified, and whether the rejection will be sent."""
    events = outbox.notified(conversion)
    if not events:
        return []
    notified = {subscription for _event, subscription in events}
    will_be = any(
        subscription.pk in notified and outbox.sends(subscription, Event.REJECTION)
        for subscription in outbox.missing(conversion, Event.REJECTION, events)
    )
    if will_be:
        text = gettext("%(partner)s will be notified of the rejection.")
    else:
        text = gettext("%(partner)s will not be notified of the rejection.")
    return [_was_notified(conversion, events), text % {"partner": conversion.partner}]


def of_credit(partner: Partner, trigger: str, rejected: Iterable[Conversion]) -> list[str]:
    """Say who was notified of conversions of the same order, and who will be of a new one."""
    texts = []
    for conversion in rejected:
        if events := outbox.notified(conversion):
            texts.append(_was_notified(conversion, events))
            if conversion.partner != partner:
                text = gettext("%(partner)s will not be notified that another partner is credited.")
                texts.append(text % {"partner": conversion.partner})
    if not texts:
        return []
    subscriptions = partner.subscriptions.to_trigger(trigger)
    if any(outbox.sends(subscription, Event.CONVERSION) for subscription in subscriptions):
        text = gettext("%(partner)s will be notified of the new conversion.")
    else:
        text = gettext("%(partner)s will not be notified of the new conversion.")
    return [*texts, text % {"partner": partner}]


def _was_notified(conversion: Conversion, events: set[tuple[str, int]]) -> str:
    text = gettext("%(partner)s was notified of conversion %(conversion)s: %(events)s.")
    names = {event for event, _subscription in events}
    return text % {
        "partner": conversion.partner,
        "conversion": conversion.pk,
        "events": ", ".join(str(event.label) for event in Event if event in names),
    }
