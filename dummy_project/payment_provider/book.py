"""The provider's book of payments, and how it tells a shop of one."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field

import requests
from django.conf import settings


def sign(message: bytes) -> str:
    """Sign with the secret that the shop and the provider share."""
    return hmac.new(settings.SHOP_SECRET.encode(), message, hashlib.sha256).hexdigest()


@dataclass
class Payment:
    """One payment of one order: made or not, and perhaps paid back."""

    payment_id: str
    order: str
    amount: str
    currency: str
    return_url: str
    made: bool = field(init=False, default=False)
    refunded: bool = field(init=False, default=False)
    notices: list[str] = field(init=False, default_factory=list)

    def notify_shop(self) -> bool:
        """Tell the shop, in a request of our own, how it stands; return whether it heard."""
        notice = json.dumps(
            {
                "event": "refunded" if self.refunded else "paid",
                "payment_id": self.payment_id,
                "order": self.order,
                "amount": self.amount,
                "currency": self.currency,
            }
        ).encode()
        headers = {"Content-Type": "application/json", "X-Payment-Signature": sign(notice)}
        with requests.Session() as session:
            # The shop is on this machine: no proxy of the environment has a part in this.
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
