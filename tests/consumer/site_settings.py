"""The settings of a project that has installed the package and checks its types."""

from __future__ import annotations

SECRET_KEY = "types"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "affiliations",
    "shop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "affiliations.middleware.AffiliateVisitorsRegistrationMiddleware",
]
AUTH_USER_MODEL = "shop.Customer"
AFFILIATE_TRIGGERS = [
    (
        "Order placed",
        "django.db.models.signals.post_save",
        "affiliations.triggers.object_created",
        "shop.Order",
    ),
]
