"""A site whose pages and forms are Wagtail's, set up as its documentation says."""

from __future__ import annotations

from tests.integrations.settings import *  # noqa: F403
from tests.settings import AUTH_USER_MODEL, INSTALLED_APPS, MIDDLEWARE

ROOT_URLCONF = "tests.integrations.wagtail.urls"
INSTALLED_APPS = [
    *INSTALLED_APPS,
    "tests.integrations.wagtail.site",
    "wagtail.contrib.forms",
    "wagtail.contrib.redirects",
    "wagtail.embeds",
    "wagtail.sites",
    "wagtail.users",
    "wagtail.snippets",
    "wagtail.documents",
    "wagtail.images",
    "wagtail.search",
    "wagtail.admin",
    "wagtail",
    "modelcluster",
    "taggit",
    "django_filters",
]
MIDDLEWARE = [*MIDDLEWARE, "wagtail.contrib.redirects.middleware.RedirectMiddleware"]
WAGTAIL_SITE_NAME = "Shop"
WAGTAILADMIN_BASE_URL = "https://shop.example"

AFFILIATE_TRIGGERS = [
    (
        "User registered",
        "django.db.models.signals.post_save",
        "affiliations.triggers.object_created",
        AUTH_USER_MODEL,
    ),
    (
        "Form sent",
        "django.db.models.signals.post_save",
        "affiliations.triggers.object_created",
        "wagtailforms.FormSubmission",
        {"reference": "pk"},
    ),
    (
        "Order placed",
        "django.db.models.signals.post_save",
        "affiliations.triggers.object_created",
        "testapp.Order",
    ),
]
