"""A shop of django-oscar, set up as its documentation says."""

from __future__ import annotations

from django.utils.deprecation import RemovedInDjango2028Warning
from oscar import INSTALLED_APPS as OSCAR
from oscar.defaults import *  # noqa: F403

from tests.integrations.settings import *  # noqa: F403
from tests.integrations.settings import ignore_warnings
from tests.settings import AUTH_USER_MODEL, INSTALLED_APPS, MIDDLEWARE, TEMPLATES

ignore_warnings("oscar", RemovedInDjango2028Warning)

SITE_ID = 1
ROOT_URLCONF = "tests.integrations.oscar.urls"
INSTALLED_APPS = [*INSTALLED_APPS, *(app for app in OSCAR if app not in INSTALLED_APPS)]
MIDDLEWARE = [*MIDDLEWARE, "oscar.apps.basket.middleware.BasketMiddleware"]
AUTHENTICATION_BACKENDS = [
    "oscar.apps.customer.auth_backends.EmailBackend",
    "django.contrib.auth.backends.ModelBackend",
]
HAYSTACK_CONNECTIONS = {"default": {"ENGINE": "haystack.backends.simple_backend.SimpleEngine"}}
# The simple engine has nothing to keep up to date.
HAYSTACK_SIGNAL_PROCESSOR = "haystack.signals.BaseSignalProcessor"
TEMPLATES[0]["OPTIONS"]["context_processors"] += [
    "oscar.apps.search.context_processors.search_form",
    "oscar.apps.checkout.context_processors.checkout",
    "oscar.apps.communication.notifications.context_processors.notifications",
    "oscar.core.context_processors.metadata",
]
OSCAR_INITIAL_ORDER_STATUS = "Pending"
OSCAR_ORDER_STATUS_PIPELINE = {
    "Pending": ("Sent", "Cancelled"),
    "Sent": ("Cancelled",),
    "Cancelled": (),
}

AFFILIATE_TRIGGERS = [
    (
        "User registered",
        "django.db.models.signals.post_save",
        "affiliations.triggers.object_created",
        AUTH_USER_MODEL,
    ),
    (
        "Order placed",
        "django.db.models.signals.post_save",
        "affiliations.triggers.object_created",
        "order.Order",
        {
            "user": "user",
            "reference": "number",
            "amount": "total_excl_tax",
            "currency": "currency",
        },
    ),
]
