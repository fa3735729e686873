"""The entries about conversions: recorded, decided, adjusted, added to a statement."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from affiliations.amounts import money
from affiliations.exceptions import Reason
from affiliations.models import Conversion, Subscription
from affiliations.models.accounts import user_display
from affiliations.timeline.entries import (
    Entry,
    callback_entries,
    join,
    local,
    reason_text,
    reference_text,
)


def recorded(conversion: Conversion) -> Entry:
    names = {
        "trigger": conversion.trigger,
        "conversion": conversion.pk,
        "user": conversion.user and user_display(conversion.user),
        "amount": money(conversion.amount or Decimal(), conversion.currency),
        "staff": conversion.credited_by_display or "-",
        "reason": conversion.credit_reason,
    }
    text = join(
        _("“%(trigger)s” was recorded as conversion %(conversion)s.") % names,
        conversion.credit_reason
        and _("It was credited manually by %(staff)s (%(reason)s).") % names,
        _code(conversion),
        reference_text(conversion.reference),
        not conversion.released
        and conversion.dedupe_key.startswith("v:")
        and _("It counts once per visitor, so it cannot be credited to this visitor again."),
        conversion.user is not None and _("The buyer is the user %(user)s.") % names,
        conversion.amount is not None and _("The amount is %(amount)s.") % names,
        _payout(conversion),
        conversion.is_test and _("Test: excluded from reports."),
    )
    return Entry(conversion.created_on, text, conversion)


def conversion_entries(conversion: Conversion) -> Iterator[Entry]:
    yield recorded(conversion)
    yield decision(conversion)
    yield from _settlement_entries(conversion)
    for callback in conversion.callbacks.all():
        yield from callback_entries(callback)


def _code(conversion: Conversion) -> str:
    """Return by which code the conversion was credited, and instead of whom."""
    beaten = conversion.instead_of
    if beaten is None:
        text = _("It was credited by the code %(code)s on the order.")
        return conversion.code and text % {"code": conversion.code}
    text = _(
        "It was credited by the code %(code)s on the order, which takes precedence over the click "
        "of visitor %(visitor)s from %(partner)s."
    )
    return text % {"code": conversion.code, "visitor": beaten, "partner": beaten.partner}


def lost_to_code(conversion: Conversion) -> Entry:
    """Return the entry of a visitor whose click lost the conversion to another partner's code."""
    names = {
        "trigger": conversion.trigger,
        "conversion": conversion.pk,
        "partner": conversion.partner,
        "code": conversion.code,
    }
    text = join(
        _(
            "“%(trigger)s” was credited to %(partner)s as conversion %(conversion)s, by the code "
            "%(code)s on the order, which takes precedence over this click."
        )
        % names,
        reference_text(conversion.reference),
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


def decision(conversion: Conversion) -> Entry:
    names: dict[str, object] = {"conversion": conversion.pk, "user": conversion.decided_by_display}
    if conversion.approve_on is not None:
        names["on"] = local(conversion.approve_on)
        text = _(
            "Conversion %(conversion)s is pending and will be approved on %(on)s unless it is "
            "rejected."
        )
    else:
        by_user, by_rule = _DECISIONS[Conversion.Status(conversion.status)]
        text = _(by_user if conversion.decided_by_display else by_rule)
    review_reason = {"reason": Reason.display(conversion.review_reason)}
    text = join(
        text % names,
        reason_text(conversion.reason_display),
        conversion.needs_review and _("Only staff can approve it: %(reason)s.") % review_reason,
        conversion.review_reason
        and not conversion.needs_review
        and _("It needed review. Reason: %(reason)s") % {"reason": conversion.review_display},
    )
    cure = Reason.cure_of(conversion.review_reason) if conversion.needs_review else ""
    return Entry(conversion.decided_on or conversion.created_on, text, conversion, cure)


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
        reason = reason_text(adjustment.reason_display or "-")
        text = join(text % names, amount or "", reason, status % names)
        yield Entry(adjustment.created_on, text, adjustment)
