"""What a story tells of a conversion: what it earns, who decided, and how it was settled."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from affiliations.amounts import money
from affiliations.exceptions import Reason
from affiliations.models import Conversion, Subscription
from affiliations.stories import callbacks
from affiliations.stories.lines import Line, by_key, refers_to, written


def tell(conversion: Conversion) -> Iterator[Line]:
    """Tell of a conversion: what it is, what it earns, what was decided, what the partner heard."""
    names = {"trigger": conversion.trigger, "conversion": conversion.pk}
    sentences = [_("“%(trigger)s” was counted, as conversion %(conversion)s.") % names]
    if conversion.reference:
        sentences.append(refers_to(conversion.reference))
    if conversion.dedupe_key.startswith("v:"):
        sentences.append(_("It counts once a visitor, and so not again for this one."))
    if conversion.user is not None:
        sentences.append(_("The buyer is the user %(user)s.") % {"user": conversion.user})
    if conversion.amount is not None:
        amount = money(conversion.amount, conversion.currency)
        sentences.append(_("The amount is %(amount)s.") % {"amount": amount})
    sentences.append(_payout(conversion))
    if conversion.is_test:
        sentences.append(_("This is a test of the deal, and in no number."))
    yield Line(conversion.created_on, " ".join(sentences), conversion)
    yield _decision(conversion)
    yield from _settlement(conversion)
    for callback in by_key(conversion.callbacks.all()):
        yield from callbacks.tell(callback)


def _payout(conversion: Conversion) -> str:
    if conversion.payout_type == Subscription.PayoutType.NONE:
        return _("It earns nothing that is reckoned here.")
    if conversion.payout is None:
        return _("What it earns could not be reckoned.")
    payout = {"payout": money(conversion.payout, conversion.payout_currency)}
    if conversion.payout_type == Subscription.PayoutType.FIXED:
        return _("It earns %(payout)s, a fixed amount.") % payout
    percentage = number_format((conversion.payout_value or Decimal()).normalize())
    text = _("It earns %(payout)s, %(percentage)s %% of the amount.")
    return text % (payout | {"percentage": percentage})


#: How a decision is told: by somebody, and by nobody in person.
_DECIDED = {
    Conversion.Status.PENDING: (
        gettext_noop("Conversion %(conversion)s was brought back by %(user)s and waits again."),
        gettext_noop("Conversion %(conversion)s waits for somebody to decide."),
    ),
    Conversion.Status.APPROVED: (
        gettext_noop("Conversion %(conversion)s was approved by %(user)s."),
        gettext_noop("Conversion %(conversion)s was approved by a rule or a signal."),
    ),
    Conversion.Status.REJECTED: (
        gettext_noop("Conversion %(conversion)s was rejected by %(user)s."),
        gettext_noop("Conversion %(conversion)s was rejected by a rule or a signal."),
    ),
}


def _decision(conversion: Conversion) -> Line:
    """Tell what was decided last, by whom and why."""
    names: dict[str, object] = {"conversion": conversion.pk, "user": conversion.decided_by}
    if conversion.approve_on is not None:
        names["on"] = written(conversion.approve_on)
        text = _("Conversion %(conversion)s waits, to be approved on %(on)s unless it is rejected.")
    else:
        by_somebody, by_nobody = _DECIDED[Conversion.Status(conversion.status)]
        text = _(by_nobody if conversion.decided_by is None else by_somebody)
    sentences = [text % names]
    if conversion.reason:
        # Ours are kept in English; those of the host or of staff stay as they are.
        sentences.append(_("The reason: %(reason)s") % {"reason": _(conversion.reason)})
    if conversion.doubt and conversion.status == Conversion.Status.PENDING:
        why = Reason(conversion.doubt).label
        sentences.append(_("Only a person can approve it: %(reason)s.") % {"reason": why})
    return Line(conversion.decided_on or conversion.created_on, " ".join(sentences), conversion)


def _settlement(conversion: Conversion) -> Iterator[Line]:
    """Tell with which settlement it is paid, and what was corrected about it."""
    if (settlement := conversion.settlement) is not None:
        names = {"conversion": conversion.pk, "settlement": settlement}
        text = _("Conversion %(conversion)s was settled: “%(settlement)s”.") % names
        yield Line(settlement.created_on, text, settlement)
    for correction in by_key(conversion.corrections.all()):
        names = {
            "conversion": conversion.pk,
            "change": money(correction.payout, correction.currency),
            "user": correction.created_by,
        }
        if correction.created_by is None:
            text = _("The payout of conversion %(conversion)s was corrected by %(change)s.")
        else:
            text = _(
                "The payout of conversion %(conversion)s was corrected by %(change)s, by %(user)s."
            )
        sentences = [
            text % names,
            _("The reason: %(reason)s") % {"reason": _(correction.reason or "-")},
        ]
        if correction.settlement is None:
            sentences.append(_("No settlement has it yet."))
        else:
            text = _("It was settled: “%(settlement)s”.")
            sentences.append(text % {"settlement": correction.settlement})
        yield Line(correction.created_on, " ".join(sentences), correction)
