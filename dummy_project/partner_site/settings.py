"""Settings of the partner's site. It keeps its data in memory and needs no database."""

from __future__ import annotations

import os

SECRET_KEY = "insecure-and-good-enough-for-a-dummy-partner"
DEBUG = True
INSTALLED_APPS = ["django.contrib.staticfiles", "partner_site"]
ROOT_URLCONF = "partner_site.urls"
TEMPLATES = [
    {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True},
]
STATIC_URL = "static/"
USE_TZ = True
TIME_ZONE = "UTC"

# Given to the partner by the shop.
SHOP_URL = os.environ.get("PARTNER_SHOP_URL", "http://127.0.0.1:8000/")
AFFILIATE_UID = os.environ.get("PARTNER_AFFILIATE_UID", "")

# The status of responses to callbacks. Use another one than 2xx to simulate an error.
CALLBACK_STATUS = int(os.environ.get("PARTNER_CALLBACK_STATUS", "200"))
