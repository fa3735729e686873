"""
The signals by which this app tells the host's code what has happened.

Each is sent with ``send_robust`` and after commit: a receiver cannot break the tracking, and never
hears of something that was rolled back. What must be in the transaction does not go by signal.
"""

from __future__ import annotations

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
