"""
Credit a visitor with a conversion: the rows and their callbacks.

All of it is written in the host's transaction and inside one savepoint, so that it exists exactly
if what the host did exists, and so that no failure here takes the host's work along. This module
knows no HTTP and no request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from django.db import IntegrityError, router, transaction
from django.db.models import Q
from django.utils import timezone

from affiliations import payouts, screening
from affiliations.callbacks import outbox
from affiliations.conf import settings
from affiliations.exceptions import NotCounted, Reason
from affiliations.models import Conversion, Subscription, UncountedTrigger, Visitor
from affiliations.models.conversion import reference_key
from affiliations.models.visitor import SUB_IDS
from affiliations.signals import announce, conversion_recorded, trigger_not_counted

if TYPE_CHECKING:
    from django.contrib.auth.models import User

logger = logging.getLogger("affiliations")

Event = outbox.Event
Status = Conversion.Status
T = TypeVar("T")


def database() -> str:
    """Return the alias of the database that conversions are written to."""
    return router.db_for_write(Conversion)


def attempt(trigger: str, work: Callable[[], T]) -> T | None:
    """
    Do ``work`` and return what it returns, keeping the host's work apart from what happens in it.

    Inside a transaction it is done within a savepoint, its reads included: a failing read spoils a
    transaction of PostgreSQL as a failing write does. ``NotCounted`` and every failure end here, in
    the log and with ``None``. The one exception: where the failure has taken the host's transaction
    with it (MariaDB does so at a deadlock) it is raised again, since the host's work is gone and it
    must know.
    """
    connection = transaction.get_connection(database())
    if connection.needs_rollback:
        return None  # Nothing of this transaction will exist, and nothing can be asked in it.
    try:
        with _savepoint():
            try:
                return work()
            except NotCounted as refusal:
                _tell_refusal(trigger, refusal)
    except Exception:
        if connection.needs_rollback:
            raise
        logger.exception("Trigger “%s” could not be counted.", trigger)
    return None


def record(
    visitor: Visitor,
    trigger: str,
    *,
    user: User | None = None,
    instance: object = None,
    reference: str = "",
    amount: object = None,
    currency: str = "",
    by_hand: bool = False,
) -> Conversion:
    """
    Credit ``visitor`` with a trigger, and queue the callbacks that tell the partner.

    ``visitor`` has just been read. ``instance`` is what was bought, ``reference`` the host's own id
    of it; ``amount`` is money as a ``Decimal``, or what makes one, in ``currency`` (ISO 4217).
    ``NotCounted``, with the reason, where nothing is to be credited; then nothing is written.
    ``by_hand`` says that somebody makes good for a partner who was wronged: then it does not matter
    whether the referral is still open, and all the rest does.

    Outside a transaction all reads come first, so that the transaction begins with a write: SQLite
    cannot turn a reading transaction into a writing one while another writes.
    """
    now = timezone.now()
    if not by_hand and (refusal := visitor.refusal(now)) is not None:
        raise NotCounted(refusal, visitor, reference)
    # From the database that is written to: a replica may not have heard of them yet.
    subscriptions = visitor.partner.subscriptions.using(database()).to_trigger(trigger)
    if not subscriptions:
        raise NotCounted(Reason.NOT_SUBSCRIBED, visitor, reference)
    conversion = Conversion(
        visitor=visitor,
        partner=visitor.partner,
        subscription=subscriptions[0],
        trigger=trigger,
        user=user,
        reference=reference[:255],
        dedupe_key=_dedupe_key(subscriptions[0], visitor, reference),
        reference_key=reference_key(reference),
        is_test=visitor.is_test,
        created_on=now,
        **{name: getattr(visitor, name) for name in SUB_IDS},
    )
    if _is_counted(conversion):
        raise NotCounted(Reason.ALREADY_COUNTED, visitor, reference)
    doubts = {
        Reason.SCREENED: _screened(conversion, instance),
        Reason.NO_AMOUNT: _reckon(conversion, amount, currency),
    }
    _decide_at_once(conversion, {code: doubt for code, doubt in doubts.items() if doubt})
    closes = any(subscription.closes_referral for subscription in subscriptions)
    try:
        with transaction.atomic(using=database()):
            # The visitor's row first: two conversions of one visitor then wait for each other here.
            # After an insert that refers to the row each would hold a share of it, and MariaDB see
            # a deadlock.
            if credited := visitor.credit(now, user, close=closes, by_hand=by_hand):
                conversion.save(force_insert=True)
                outbox.tell(conversion, subscriptions, Event.CONVERSION)
                if conversion.status == Status.APPROVED:
                    outbox.tell(conversion, subscriptions, Event.APPROVAL)
                announce(conversion_recorded, using=database(), conversion=conversion)
    except IntegrityError:
        if _is_counted(conversion):
            raise NotCounted(Reason.ALREADY_COUNTED, visitor, reference) from None
        raise
    if not credited:
        raise NotCounted(Reason.REFERRAL_CLOSED, visitor, reference)
    if closes:
        visitor.closed_on = visitor.closed_on or now
    return conversion


def _savepoint() -> AbstractContextManager[None]:
    """Keep what is done apart from an open transaction; where there is none, from nothing."""
    connection = transaction.get_connection(database())
    # Without autocommit a transaction is open, though no atomic block is.
    if connection.in_atomic_block or not connection.get_autocommit():
        savepoint: AbstractContextManager[None] = transaction.atomic(using=connection.alias)
        return savepoint
    return nullcontext()


def _tell_refusal(trigger: str, refusal: NotCounted) -> None:
    """Say why a trigger was not counted: in the log, by a signal, and for the visitor's story."""
    logger.debug(
        "Trigger “%s” was not counted: %s (visitor %s, reference “%s”).",
        trigger,
        refusal.reason.value,
        refusal.visitor,
        refusal.reference,
    )
    # After the commit: a row that refers to the visitor's holds a share of that until then, and
    # two conversions of one visitor would meet in a deadlock.
    transaction.on_commit(
        # No partial: Django 5.2 logs the __qualname__ of what has failed here.
        lambda: _after_refusal(trigger, refusal),
        using=database(),
        robust=True,
    )


def _after_refusal(trigger: str, refusal: NotCounted) -> None:
    visitor, reason, reference = refusal.visitor, refusal.reason, refusal.reference
    if visitor is not None and not _is_in_the_story(refusal):
        UncountedTrigger.objects.add(visitor, trigger, reason, reference, timezone.now())
    trigger_not_counted.send_robust(
        Conversion, trigger=trigger, reason=reason, visitor=visitor, reference=reference
    )


def _is_in_the_story(refusal: NotCounted) -> bool:
    """Tell whether it was counted before for the same visitor, who need not hear of it twice."""
    if refusal.reason is not Reason.ALREADY_COUNTED:
        return False
    theirs = Conversion.objects.using(database()).filter(visitor=refusal.visitor)
    return theirs.filter(reference=refusal.reference[:255]).exists()


def _dedupe_key(subscription: Subscription, visitor: Visitor, reference: str) -> str:
    """Return what may be counted once only, as the subscription says: a visitor or a reference."""
    if subscription.counting == Subscription.Counting.ONCE:
        return f"v:{visitor.pk}"
    if not reference:
        logger.warning(
            "Trigger “%s” counts every reference, but it was completed without one and is not "
            "counted. Give complete_trigger() an instance or a reference.",
            subscription.trigger,
        )
        raise NotCounted(Reason.NO_REFERENCE, visitor)
    return f"r:{reference_key(reference)}"


def _is_counted(conversion: Conversion) -> bool:
    same = Q(dedupe_key=conversion.dedupe_key)
    if conversion.reference_key is not None:
        same |= Q(reference_key=conversion.reference_key)
    counted = Conversion.objects.using(database()).filter(same, trigger=conversion.trigger)
    return counted.exists()


def _reckon(conversion: Conversion, amount: object, currency: str) -> str:
    """Write down the amount and what it earns; return what is wrong with them, if anything."""
    rule = conversion.subscription
    order = payouts.money(amount, currency)
    earned = payouts.payout(rule, order)
    conversion.amount, conversion.currency = order.amount, order.currency
    conversion.payout_type, conversion.payout_value = rule.payout_type, rule.payout_value
    conversion.payout, conversion.payout_currency = earned.amount, earned.currency
    problem = order.problem or earned.problem
    if problem:
        logger.error(
            "Trigger “%s” was completed with the amount %r and the currency %r. %s",
            conversion.trigger,
            amount,
            currency,
            problem,
        )
    return problem


def _screened(conversion: Conversion, instance: object) -> str:
    """Return why somebody should look at a conversion before it is paid for; or nothing."""
    try:
        rule = settings.screen
        # Our own fails only where all of this does. What the host's asks of the database may fail
        # alone, and spoil the transaction.
        with nullcontext() if rule is screening.own_account else _savepoint():
            reason = rule(conversion.visitor, conversion.user, instance)
    except Exception:
        if transaction.get_connection(database()).needs_rollback:
            raise
        logger.exception("Trigger “%s” could not be screened.", conversion.trigger)
        return screening.FAILED
    return str(reason or "")


def _decide_at_once(conversion: Conversion, doubts: Mapping[Reason, str]) -> None:
    """Approve a new conversion, or let it wait: for somebody, or for its day."""
    rule = conversion.subscription
    conversion.status = Status.PENDING
    if doubts:
        code, reason = next(iter(doubts.items()))
        conversion.doubt, conversion.reason = code.value, reason[:255]
        codes = ", ".join(code.value for code in doubts)
        logger.debug("Trigger “%s” is for somebody to look at: %s.", conversion.trigger, codes)
    elif rule.approval == Subscription.Approval.AUTOMATIC and rule.approve_after:
        conversion.approve_on = conversion.created_on + timedelta(days=rule.approve_after)
    elif rule.approval == Subscription.Approval.AUTOMATIC:
        conversion.status = Status.APPROVED
        conversion.decided_on = conversion.created_on
