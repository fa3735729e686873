"""
What passes between the shop and its payment provider.

The shop sends the buyer to the provider with the order signed, so that nobody lowers the price on
the way, and the provider reports the payment with a signed body, so that nobody else can.
"""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import urlencode

from django.conf import settings

from store.models import Order

SIGNATURE_HEADER = "X-Payment-Signature"


def sign(message: bytes) -> str:
    """Sign with the secret that the shop and the provider share."""
    return hmac.new(settings.PAYMENT_SECRET.encode(), message, hashlib.sha256).hexdigest()


def is_signed(message: bytes, signature: str) -> bool:
    """Tell whether the provider signed this message."""
    return hmac.compare_digest(sign(message).encode(), signature.encode())


def checkout_url(order: Order, return_url: str) -> str:
    """Return the provider's page at which the buyer pays this order."""
    checkout = urlencode(
        {
            "order": order.pk,
            "amount": order.total,
            "currency": order.currency,
            "return_url": return_url,
        }
    )
    return f"{settings.PAYMENT_URL}pay/?{checkout}&signature={sign(checkout.encode())}"
