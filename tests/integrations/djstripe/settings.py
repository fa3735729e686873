"""A shop whose customers pay through Stripe, with dj-stripe set up as its documentation says."""

from __future__ import annotations

import os
from decimal import Decimal
from typing import Any

from tests.integrations.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS

ROOT_URLCONF = "tests.integrations.djstripe.urls"
INSTALLED_APPS = [*INSTALLED_APPS, "djstripe"]
STRIPE_TEST_SECRET_KEY = "sk_test_000000000000000000000000"
DJSTRIPE_FOREIGN_KEY_TO_FIELD = "id"
if os.environ.get("AFFILIATIONS_TEST_REQUIRE") != "all":
    # The migrations of dj-stripe take a minute, since one of them removes 500 fields. CI runs them.
    MIGRATION_MODULES = {"djstripe": None}


def amount(session: Any) -> Decimal:
    """Return what was paid at a checkout; Stripe counts cents."""
    return Decimal(session.amount_total) / 100


AFFILIATE_TRIGGERS = [
    (
        "Order paid",
        "django.db.models.signals.post_save",
        "affiliations.triggers.object_created",
        "djstripe.Session",
        {
            "visitor": "client_reference_id",
            "reference": "id",
            "amount": amount,
            "currency": "currency",
        },
    ),
]
