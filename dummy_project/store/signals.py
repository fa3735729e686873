"""
The shop's signals.

They do not depend on partners: a stock or mail system could use them as well. The project's
settings connect triggers to them.
"""

from __future__ import annotations

from django.dispatch import Signal

# Each is sent once per order, with the sender Order and the order as `instance`.
order_paid = Signal()
order_refunded = Signal()
