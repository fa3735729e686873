"""
The signals of this app.

Each is sent with ``send_robust`` and after the commit. So a receiver that fails does not break the
tracking, and a receiver gets no event that was rolled back.
"""

from __future__ import annotations

from django.db import transaction
from django.db.models import Model
from django.dispatch import Signal

#: A click on a partner's link was counted, or ``refer()`` has registered a visitor. Sent by
#: ``Visitor`` with ``visitor`` and ``request``, which is ``None`` if there is no request of the
#: visitor.
visitor_registered = Signal()

#: A click on a partner's link was filtered. Sent by ``Partner`` with ``partner`` (``None`` if it
#: is unknown), ``reason``, and ``request`` (``None`` if ``refer()`` was called without one).
click_filtered = Signal()

#: A trigger fired and had no effect. Sent by ``Conversion`` with ``trigger``, ``reason``,
#: ``visitor`` (``None`` if there was none) and ``reference``.
trigger_not_credited = Signal()

#: A conversion was credited to a visitor. Sent by ``Conversion`` with ``conversion``.
conversion_recorded = Signal()

#: A conversion was approved, rejected or reopened. Sent by ``Conversion`` with ``conversion``.
conversion_decided = Signal()

#: A partner has accepted a callback. Sent by ``Callback`` with ``callback``.
callback_delivered = Signal()

#: The app gave up on a callback, because its last attempt has failed or the partner has answered
#: with 410. Sent by ``Callback`` with ``callback``.
callback_exhausted = Signal()

#: A subscription's callbacks have failed for too long and are suspended. Sent by ``Subscription``
#: with ``subscription``.
subscription_suspended = Signal()


def announce(signal: Signal, *, using: str, **argument: Model) -> None:
    """
    Send a signal after the transaction on the database ``using`` is committed.

    ``argument`` is exactly one keyword argument, a model instance. Its class is the sender.
    """
    (instance,) = argument.values()
    sender = instance._meta.concrete_model  # The host may have a proxy of the model.
    transaction.on_commit(lambda: signal.send_robust(sender, **argument), using=using)
