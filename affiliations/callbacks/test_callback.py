"""Test callbacks, which staff send with sample values."""

from __future__ import annotations

from functools import partial

from django.db import transaction
from django.utils import timezone

from affiliations import db, placeholders
from affiliations.callbacks import signature
from affiliations.models import Callback, CallbackAttempt, Subscription


def send_test_callback(subscription: Subscription) -> CallbackAttempt:
    """
    Send one callback with sample values and the event ``test``, now.

    The callback is stored like any other, without a conversion. A failure does not count towards a
    suspension.

    Args:
        subscription: The subscription with the callback URL.

    Returns:
        The attempt, with the partner's answer.

    Raises:
        InvalidCallBackURL: If the callback URL is invalid.
    """
    # Not at the top, since importing this function must not load requests.
    from affiliations.callbacks import transport

    subscription.validate_callback_url()
    now = timezone.now()
    callback = Callback(
        subscription=subscription,
        partner=subscription.partner,
        event=Callback.Event.TEST,
        method=subscription.method,
        attempt_count=1,
        next_attempt_on=now,
        created_on=now,
    )
    callback.partner.ensure_signing_secret()
    values = placeholders.values_for(callback)
    callback.url = placeholders.render(subscription.callback_url, values)
    if callback.method == Subscription.Method.POST:
        callback.body = placeholders.body(callback.event, now, values)
    headers = partial(signature.headers, callback)
    result = transport.send(callback.url, headers, body=callback.request_body)
    callback.status = Callback.Status.DELIVERED if result.delivered else Callback.Status.EXHAUSTED
    callback.delivered_on = timezone.now() if result.delivered else None
    attempt = transport.AttemptResult(callback, now, result).row()
    with transaction.atomic(using=db.write_alias()):
        callback.save(force_insert=True)
        attempt.save(force_insert=True)
    return attempt
