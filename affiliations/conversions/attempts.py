"""
Do the work of a trigger, and do it again if the database fails.

A lock that is held too long, a time-out or a lost connection must lose no order, no payment and no
refund. The failed work is stored in ``FailedTrigger``, in the host's transaction, so that it is
rolled back with the host's rows. It is tried again after the commit, and then by the sweep.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from django.db import DatabaseError, InterfaceError, transaction
from django.utils import timezone

from affiliations import db, logs
from affiliations.amounts import parse
from affiliations.conf import settings
from affiliations.exceptions import NotCredited, Reason
from affiliations.models import Conversion, FailedTrigger, UncreditedTrigger, Visitor
from affiliations.signals import trigger_not_credited

logger = logging.getLogger("affiliations")

T = TypeVar("T")

#: How often the work of a trigger is called if it ends in deadlocks outside of a transaction.
_TRIES = 3
_AGAIN = "It is tried again"


def attempt(trigger: str, work: Callable[[], T], describe: Callable[[], FailedTrigger]) -> T | None:
    """
    Call ``work`` and return its result; a failure is logged, and ``None`` is returned.

    Inside a transaction ``work`` runs within a savepoint, its reads included: on PostgreSQL a
    failing read ends a transaction as a failing write does. Outside of a transaction ``work`` is
    called again after a deadlock. ``NotCredited`` is caught as well, and reported. A failure that
    has ended the host's transaction, as a deadlock on MariaDB does, is raised again: the host's
    rows are lost, and the host must know.

    ``describe`` is called after a failure. It returns an unsaved row with what is known, which is
    stored if the work can succeed later.
    """
    connection = transaction.get_connection(db.write_alias())
    if connection.needs_rollback:
        return None  # This transaction will be rolled back, and no query works in it.
    tries_left = _TRIES
    while True:
        tries_left -= 1
        try:
            with db.savepoint():
                try:
                    return work()
                except NotCredited as refusal:
                    _report_refusal(trigger, refusal)
        except Exception as error:
            if connection.needs_rollback:
                raise
            # On MariaDB concurrent inserts may deadlock, though their keys are different.
            if tries_left and db.is_deadlock(error) and not db.is_in_transaction():
                continue
            _after_failure(error, work, describe)
        return None


def retry(failed: FailedTrigger, work: Callable[[], object]) -> bool:
    """
    Call the ``work`` of a stored row again; return whether there is nothing left to do.

    The row is deleted in the transaction of the work, so that the work is done once.
    """
    alias = db.write_alias()
    try:
        if not failed.claim(db.now()):
            return False  # Another process tries it.
        with transaction.atomic(using=alias):
            # First, since on SQLite a transaction that reads before it writes would fail.
            if not FailedTrigger.objects.using(alias).filter(pk=failed.pk).delete()[0]:
                return False
            try:
                work()
            except NotCredited as refusal:
                _report_refusal(failed.trigger, refusal)
    except Exception as error:
        outcome = _AGAIN if failed.is_waiting else "It has failed too often"
        _log(failed, outcome, error)
        return False
    return True


def _after_failure(
    error: Exception, work: Callable[[], object], describe: Callable[[], FailedTrigger]
) -> None:
    """Log a failure, and store the work for another try if the database has failed."""
    alias = db.write_alias()
    connection = transaction.get_connection(alias)
    # Only if it is broken: a connection that works may have settings and locks of the host.
    is_open = connection.connection is not None and not connection.in_atomic_block
    if is_open and not connection.is_usable():
        connection.close()
    failed = describe()
    if not db.is_passing(error):
        _log(failed, "It is not tried again", error)
        return
    failed.error = repr(error)[:255]
    is_stored = _store(failed)
    if connection.in_atomic_block:
        _log(failed, _AGAIN, error)
        transaction.on_commit(
            lambda: _after_commit(failed, work, describe), using=alias, robust=True
        )
    elif is_stored:
        _log(failed, _AGAIN, error)
        wake()
    else:
        _log(failed, "It is lost", error)


def _after_commit(
    failed: FailedTrigger, work: Callable[[], object], describe: Callable[[], FailedTrigger]
) -> None:
    # SQLite may have refused the host's transaction any write.
    if failed._state.adding and not _store(failed):
        _log(failed, "It is lost")
    elif not retry(failed, work):
        # The total may have been saved after the order.
        if parse(failed.amount or 0, failed.currency).is_missing:
            known = describe()
            rows = FailedTrigger.objects.using(db.write_alias()).filter(pk=failed.pk)
            rows.update(amount=known.amount, currency=known.currency)
        wake()


def _store(failed: FailedTrigger) -> bool:
    alias = db.write_alias()
    try:
        with transaction.atomic(using=alias):
            failed.due_on = db.now()
            failed.save(using=alias, force_insert=True)
    except (DatabaseError, InterfaceError):
        return False
    return True


def wake() -> None:
    """Wake the thread dispatcher to retry failed triggers. Other engines retry periodically."""
    try:
        settings.callback_dispatcher([])
    except Exception:
        logger.exception("The dispatcher failed. The sweep tries failed triggers again.")


def _log(failed: FailedTrigger, outcome: str, error: Exception | None = None) -> None:
    """Log a failure, in one line with everything that staff need to do the work manually."""
    logger.log(
        logging.WARNING if outcome == _AGAIN else logging.ERROR,
        "Trigger “%s” failed. %s: %s.",
        failed.trigger,
        outcome,
        failed.summary,
        exc_info=error,
        extra=logs.fields(partner=_partner_of(failed.visitor), reason=failed.kind),
    )


def _partner_of(visitor: Visitor | None) -> int | None:
    return None if visitor is None else visitor.partner_id


def _report_refusal(trigger: str, refusal: NotCredited) -> None:
    """Report a trigger that had no effect: to the log, by a signal, in the visitor's timeline."""
    logs.tell(
        "“%s” had no effect: %s%s (visitor %s, reference “%s”). %s",
        trigger,
        refusal.reason.label,
        refusal.place,
        refusal.visitor,
        refusal.reference,
        refusal.reason.cure,
        partner=_partner_of(refusal.visitor),
        reason=refusal.reason.value,
    )
    # After the commit: a new row that refers to the visitor takes a shared lock of the visitor's
    # row until then, and two conversions of one visitor would deadlock.
    transaction.on_commit(
        # No partial: Django 5.2 logs the __qualname__ of a callable that fails.
        lambda: _after_refusal(trigger, refusal),
        using=db.write_alias(),
        robust=True,
    )


def _after_refusal(trigger: str, refusal: NotCredited) -> None:
    visitor, reason, reference = refusal.visitor, refusal.reason, refusal.reference
    if visitor is not None and not _is_recorded_for_visitor(refusal):
        UncreditedTrigger.objects.add(visitor, trigger, reason, reference, timezone.now())
    trigger_not_credited.send_robust(
        Conversion, trigger=trigger, reason=reason, visitor=visitor, reference=reference
    )


def _is_recorded_for_visitor(refusal: NotCredited) -> bool:
    """Tell whether the visitor's timeline has the conversion, and so needs no refusal."""
    if refusal.reason is not Reason.ALREADY_COUNTED:
        return False
    conversions = Conversion.objects.using(db.write_alias()).filter(visitor=refusal.visitor)
    return conversions.filter(reference=refusal.reference[:255]).exists()
