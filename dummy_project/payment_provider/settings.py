"""Settings of the payment provider. It keeps its payments in memory and needs no database."""

from __future__ import annotations

import os

SECRET_KEY = "insecure-and-good-enough-for-a-dummy-provider"
DEBUG = True
INSTALLED_APPS = ["django.contrib.staticfiles", "payment_provider"]
ROOT_URLCONF = "payment_provider.urls"
TEMPLATES = [
    {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True},
]
STATIC_URL = "static/"
USE_TZ = True
TIME_ZONE = "UTC"

# Given to the payment provider by the shop.
SHOP_WEBHOOK_URL = os.environ.get("PROVIDER_WEBHOOK_URL", "http://127.0.0.1:8000/payments/webhook/")
SHOP_SECRET = os.environ.get("PROVIDER_SECRET", "shared-with-the-payment-provider")
