"""The log message about a new conversion, for a developer."""

from __future__ import annotations

from collections.abc import Sequence

from django.utils.text import format_lazy

from affiliations import logs
from affiliations.amounts import plain
from affiliations.callbacks.outbox import sends
from affiliations.exceptions import Reason
from affiliations.models import Callback, Conversion, Subscription


def tell_recorded(conversion: Conversion, subscriptions: Sequence[Subscription]) -> None:
    """Log a conversion, as it is after the commit."""
    review: object = ""
    payout = "no payout"
    if conversion.review_reason:
        reason = Reason(conversion.review_reason)
        review = format_lazy(" It needs review: {}. {}", reason.label, reason.cure)
    if conversion.payout is not None:
        payout = f"payout {plain(conversion.payout)} {conversion.payout_currency}"
    logs.tell(
        "“%s” credited to %s: conversion %s of visitor %s, %s, %s.%s%s",
        conversion.trigger,
        conversion.partner.name_and_uid,
        conversion.pk,
        conversion.visitor_id,
        payout,
        conversion.status,
        review,
        _why_no_callback(subscriptions),
        partner=conversion.partner_id,
        conversion=conversion.pk,
        reason=conversion.review_reason,
    )


def _why_no_callback(subscriptions: Sequence[Subscription]) -> str:
    if any(sends(row, Callback.Event.CONVERSION) for row in subscriptions):
        return ""
    if any(row.callback_url for row in subscriptions):
        return " No callback: the subscription sends none when a conversion is created."
    return " No callback: the subscription has no callback URL."
