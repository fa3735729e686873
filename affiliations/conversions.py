"""
Credit a visitor with a conversion: the row, what it changes on the visitor, and its callbacks.

All of it is written in the host's transaction and inside one savepoint, so that it exists exactly
if what the host did exists, and so that no failure here takes the host's work along. This module
knows no HTTP and no request.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from contextlib import nullcontext
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from django.db import IntegrityError, router, transaction
from django.utils import timezone

from affiliations.callbacks import outbox
from affiliations.exceptions import NotCounted, Reason
from affiliations.models import Conversion, Subscription, Visitor
from affiliations.signals import conversion_recorded

if TYPE_CHECKING:
    from django.contrib.auth.models import User

logger = logging.getLogger("affiliations")

#: What the column keeps of an amount.
_SMALLEST_AMOUNT = Decimal("0.0001")


def database() -> str:
    """Return the alias of the database that conversions are written to."""
    return router.db_for_write(Conversion)


def attempt(trigger: str, work: Callable[[], Conversion]) -> Conversion | None:
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
        # Without autocommit a transaction is open, though no atomic block is.
        in_transaction = connection.in_atomic_block or not connection.get_autocommit()
        with transaction.atomic(using=connection.alias) if in_transaction else nullcontext():
            try:
                return work()
            except NotCounted as refusal:
                logger.debug("Trigger “%s” was not counted: %s.", trigger, refusal.reason.value)
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
    reference: str = "",
    amount: object = None,
    currency: str = "",
) -> Conversion:
    """
    Credit ``visitor`` with a trigger, and queue the callbacks that tell the partner.

    ``visitor`` has just been read. ``reference`` is the host's own id of what was done; ``amount``
    is money as a ``Decimal``, or what makes one, in ``currency`` (ISO 4217). ``NotCounted``, with
    the reason, where nothing is to be credited; then nothing is written.

    Outside a transaction all reads come first, so that the transaction begins with a write: SQLite
    cannot turn a reading transaction into a writing one while another writes.
    """
    now = timezone.now()
    if (refusal := visitor.refusal(now)) is not None:
        raise NotCounted(refusal)
    # From the database that is written to: a replica may not have heard of them yet.
    subscriptions = visitor.partner.subscriptions.using(database()).to_trigger(trigger)
    if not subscriptions:
        raise NotCounted(Reason.NOT_SUBSCRIBED)
    conversion = Conversion(
        visitor=visitor,
        partner=visitor.partner,
        subscription=subscriptions[0],
        trigger=trigger,
        user=user,
        reference=reference[:255],
        dedupe_key=_dedupe_key(subscriptions[0], visitor, reference),
        amount=_amount(amount, trigger),
        currency=_currency(currency, trigger),
        created_on=now,
    )
    if _is_counted(conversion):
        raise NotCounted(Reason.ALREADY_COUNTED)
    closes = any(subscription.closes_referral for subscription in subscriptions)
    try:
        with transaction.atomic(using=database()):
            # The visitor's row first: two conversions of one visitor then wait for each other here.
            # After an insert that refers to the row each would hold a share of it, and MariaDB see
            # a deadlock.
            if credited := visitor.credit(now, user, close=closes):
                conversion.save(force_insert=True)
                outbox.queue(conversion, subscriptions)
                transaction.on_commit(
                    lambda: conversion_recorded.send_robust(Conversion, conversion=conversion),
                    using=database(),
                )
    except IntegrityError:
        if _is_counted(conversion):
            raise NotCounted(Reason.ALREADY_COUNTED) from None
        raise
    if not credited:
        raise NotCounted(Reason.REFERRAL_CLOSED)
    if closes:
        visitor.closed_on = now
    return conversion


def _dedupe_key(subscription: Subscription, visitor: Visitor, reference: str) -> str:
    """
    Return what may be counted once only.

    A hash of the reference, because collations fold case, blanks and accents: order ``a1`` is not
    order ``A1``. Without the visitor in it, one order is never credited to two.
    """
    if subscription.counting == Subscription.Counting.ONCE:
        return f"v:{visitor.pk}"
    if not reference:
        logger.warning(
            "Trigger “%s” counts every reference, but it was completed without one and is not "
            "counted. Give complete_trigger() an instance or a reference.",
            subscription.trigger,
        )
        raise NotCounted(Reason.NO_REFERENCE)
    return f"r:{hashlib.sha256(reference.encode()).hexdigest()}"


def _is_counted(conversion: Conversion) -> bool:
    counted = Conversion.objects.using(database())
    return counted.filter(trigger=conversion.trigger, dedupe_key=conversion.dedupe_key).exists()


def _amount(value: object, trigger: str) -> Decimal | None:
    """Make a ``Decimal`` of what the host gave; a value that is none is left out, and logged."""
    if value is None:
        return None
    try:
        amount = Decimal(str(value)).quantize(_SMALLEST_AMOUNT)
        # A digit less than the column holds: SQLite rounds up the sixteenth, and then cannot read
        # the row.
        if abs(amount) < 10**14:
            return amount
    except InvalidOperation:
        pass
    logger.error("Trigger “%s” was completed with %r, which is not an amount.", trigger, value)
    return None


def _currency(code: str, trigger: str) -> str:
    """Return an ISO 4217 code; a longer one is left out, and logged, since a cut one is another."""
    if len(code) <= 3:
        return code
    logger.error("Trigger “%s” was completed with %r, which is not a currency.", trigger, code)
    return ""
