"""A test callback: what a partner would receive, with sample values, and what they answer."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import Any

from django.db import router, transaction
from django.utils import timezone

from affiliations import placeholders
from affiliations.callbacks import signature, transport
from affiliations.callbacks.attempts import Sent
from affiliations.models import Callback, CallbackAttempt, Subscription

#: One of each kind, none of which can be taken for a real one.
_VALUES: dict[str, Any] = {
    "visitor_id": 0,
    "click_id": "test-click",
    "sub1": "test-sub1",
    "sub2": "test-sub2",
    "sub3": "test-sub3",
    "sub4": "test-sub4",
    "sub5": "test-sub5",
    "event": Callback.Event.TEST,
    "reference": "test-order",
    "amount": Decimal("100.00"),
    "currency": "EUR",
    "payout": Decimal("10.00"),
    "payout_currency": "EUR",
    "status": "approved",
}


def rendered(url: str, **facts: object) -> str:
    """
    Fill a callback URL with sample values.

    ``facts`` are the values that are known, by the names of their placeholders.
    """
    return placeholders.render(url, _VALUES | facts)


def send_test_callback(subscription: Subscription) -> CallbackAttempt:
    """
    Send a test callback of ``subscription`` now, and return the attempt with the answer.

    It is written down like any other, but with no conversion behind it. It is tried once, and its
    failure does not count for a suspension. ``InvalidCallBackURL`` where it could not be called.
    """
    subscription.validate_callback_url()
    now = timezone.now()
    callback = Callback(
        subscription=subscription,
        partner=subscription.partner,
        event=Callback.Event.TEST,
        attempt_count=1,
        next_attempt_on=now,
        created_on=now,
    )
    callback.url = rendered(
        subscription.callback_url,
        partner_uid=subscription.partner.uid,
        trigger=subscription.trigger,
        callback_id=callback.webhook_id,
        timestamp=int(now.timestamp()),
    )
    result = transport.send(
        callback.url,
        partial(
            signature.headers,
            webhook_id=callback.webhook_id,
            secret=subscription.partner.signing_secret,
        ),
    )
    callback.status = Callback.Status.EXHAUSTED
    if result.delivered:
        callback.status = Callback.Status.DELIVERED
        callback.delivered_on = timezone.now()
    attempt = Sent(callback, now, result).attempt
    with transaction.atomic(using=router.db_for_write(Callback)):
        callback.save(force_insert=True)
        attempt.save(force_insert=True)
    return attempt
