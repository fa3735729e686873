"""
Signed messages between the shop and its payment provider.

The shop signs the address to which it sends the buyer, so that the price cannot be changed. The
provider signs its notices, so that the shop can verify the sender.
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
    """Return whether the provider signed this message."""
    return hmac.compare_digest(sign(message).encode(), signature.encode())


def checkout_url(order: Order, return_url: str) -> str:
    """Return the address of the provider's page on which the buyer pays for this order."""
    checkout = urlencode(
        {
            "order": order.pk,
            "amount": order.total,
            "currency": order.currency,
            "return_url": return_url,
        }
    )
    return f"{settings.PAYMENT_URL}pay/?{checkout}&signature={sign(checkout.encode())}"
