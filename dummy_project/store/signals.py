"""
What the shop tells the rest of the project.

Nothing here knows of partners. The shop says that an order was paid or refunded, as it would to a
stock keeper or a mailer, and the settings tie a trigger to that.
"""

from __future__ import annotations

from django.dispatch import Signal

# Each is sent once an order, with the sender Order and the order as `instance`.
order_paid = Signal()
order_refunded = Signal()
