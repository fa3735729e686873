"""
The signals by which this app tells the host's code what has happened.

Each is sent with ``send_robust`` and after commit: a receiver cannot break the tracking, and never
hears of something that was rolled back. What must be in the transaction does not go by signal.
"""

from __future__ import annotations

from django.db import transaction
from django.db.models import Model
from django.dispatch import Signal

#: A partner's link was followed and counted. Sent by ``Visitor`` with ``visitor`` and ``request``.
visitor_registered = Signal()

#: A click on a partner's link was not counted. Sent by ``Partner`` with ``partner`` (``None`` where
#: the link names nobody), ``reason`` and ``request``.
click_not_counted = Signal()

#: A trigger fired and was not counted. Sent by ``Conversion`` with ``trigger``, ``reason``,
#: ``visitor`` (``None`` where there was none) and ``reference``.
trigger_not_counted = Signal()

#: A conversion was credited to a visitor. Sent by ``Conversion`` with ``conversion``.
conversion_recorded = Signal()

#: A conversion was approved, rejected or brought back. Sent by ``Conversion`` with ``conversion``.
conversion_decided = Signal()

#: A partner has taken a callback. Sent by ``Callback`` with ``callback``.
callback_delivered = Signal()

#: A callback has failed for good. Sent by ``Callback`` with ``callback``.
callback_exhausted = Signal()

#: A subscription's callbacks failed so long that they are held now. Sent by ``Subscription`` with
#: ``subscription``.
subscription_suspended = Signal()


def announce(signal: Signal, *, using: str, **what: Model) -> None:
    """
    Send a signal once the transaction on the database ``using`` is committed.

    ``what`` is the one argument that receivers get beside its class, which is the sender.
    """
    (instance,) = what.values()
    sender = instance._meta.concrete_model  # also where the host has a proxy of it
    transaction.on_commit(lambda: signal.send_robust(sender, **what), using=using)
