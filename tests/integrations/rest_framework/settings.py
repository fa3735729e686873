"""A shop whose orders are placed by an API of Django REST framework."""

from __future__ import annotations

from tests.integrations.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS

ROOT_URLCONF = "tests.integrations.rest_framework.urls"
INSTALLED_APPS = [*INSTALLED_APPS, "rest_framework", "rest_framework.authtoken"]
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.SessionAuthentication",
        "rest_framework.authentication.TokenAuthentication",
    ],
}

AFFILIATE_TRIGGERS = [
    (
        "Order placed",
        "django.db.models.signals.post_save",
        "affiliations.triggers.object_created",
        "testapp.Order",
        {"reference": "pk", "amount": "total", "currency": "currency"},
    ),
]
