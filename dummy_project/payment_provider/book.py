"""The provider's payments, and the notices to the shop."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass, field, replace

import requests
from django.conf import settings


def sign(message: bytes) -> str:
    """Sign with the secret that the shop and the provider share."""
    return hmac.new(settings.SHOP_SECRET.encode(), message, hashlib.sha256).hexdigest()


@dataclass
class Payment:
    """A payment of an order or of its renewal: open, made or refunded."""

    payment_id: str
    order: str
    amount: str
    currency: str
    return_url: str
    made: bool = field(init=False, default=False)
    refunded: bool = field(init=False, default=False)
    is_renewal: bool = field(init=False, default=False)
    notices: list[str] = field(init=False, default_factory=list)

    @property
    def subject(self) -> str:
        """Return what is paid for."""
        return f"the renewal of order {self.order}" if self.is_renewal else f"order {self.order}"

    def renew(self) -> Payment:
        """Return another payment of the same amount, made without the buyer."""
        renewal = replace(self, payment_id=f"pay_{secrets.token_hex(8)}")
        renewal.is_renewal = renewal.made = True
        return renewal

    def notify_shop(self) -> bool:
        """Send the shop the payment's status; return whether the shop accepted it."""
        notice = json.dumps(
            {
                "event": "refunded" if self.refunded else "paid",
                "payment_id": self.payment_id,
                "order": self.order,
                "amount": self.amount,
                "currency": self.currency,
                "renewal": self.is_renewal,
            }
        ).encode()
        headers = {"Content-Type": "application/json", "X-Payment-Signature": sign(notice)}
        with requests.Session() as session:
            # The shop is on this machine, so ignore proxies in environment variables.
            session.trust_env = False
            try:
                answer = session.post(
                    settings.SHOP_WEBHOOK_URL, data=notice, headers=headers, timeout=10
                )
            except requests.RequestException as error:
                self.notices.append(type(error).__name__)
                return False
        self.notices.append(str(answer.status_code))
        return answer.ok
