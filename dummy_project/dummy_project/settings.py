"""
Settings of the dummy shop.

They consist of what `django-admin startproject` writes, the shop's own settings, and the settings
that a project needs for the app. Comments on the latter begin with "Affiliations".
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import django

BASE_DIR = Path(__file__).resolve().parent.parent

# The dummy shop runs on this machine only. A real shop keeps its secret key out of its code.
SECRET_KEY = "insecure-and-good-enough-for-a-dummy-shop"
DEBUG = True
ALLOWED_HOSTS: list[str] = []

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    # Affiliations: the app itself, with its models, its pages in the Admin and its triggers.
    "affiliations",
    # The shop, and the `demo` command, which other projects do not need.
    "store",
    "demo",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    # Affiliations: registers visitors who follow a partner's link. After the session middleware,
    # which stores the visitor, and the authentication middleware, which identifies the user.
    "affiliations.middleware.AffiliateVisitorsRegistrationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "dummy_project.urls"
WSGI_APPLICATION = "dummy_project.wsgi.application"

TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        # `demo --once` uses its own database unless this variable is set.
        "NAME": os.environ.get("SHOP_DATABASE", BASE_DIR / "db.sqlite3"),
        # Otherwise two writers at once may end in "database is locked".
        "OPTIONS": {"transaction_mode": "IMMEDIATE"},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "store:products"
LOGOUT_REDIRECT_URL = "store:products"

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True

STATIC_URL = "static/"

# The shop: its e-mails are printed.
if django.VERSION >= (6, 1):
    MAILERS = {"default": {"BACKEND": "django.core.mail.backends.console.EmailBackend"}}
else:
    EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"

# The shop: the payment provider's address, and the secret that the shop shares with it.
PAYMENT_URL = os.environ.get("SHOP_PAYMENT_URL", "http://127.0.0.1:8002/")
PAYMENT_SECRET = os.environ.get("SHOP_PAYMENT_SECRET", "shared-with-the-payment-provider")

# Affiliations: the events that partners can be paid for. Each trigger has a name, to which a
# partner's subscription in the Admin refers, a signal, a receiver and a sender.
AFFILIATE_TRIGGERS = [
    (
        "User registered",
        "django.db.models.signals.post_save",
        "affiliations.triggers.object_created",
        "django.contrib.auth.models.User",
    ),
    (
        "Newsletter ordered",
        "django.db.models.signals.post_save",
        "affiliations.triggers.object_created",
        "store.NewsletterReader",
    ),
    # The fifth item names the order's attributes for the conversion and the callback. Without the
    # visitor, an order that staff enter would be credited to their own referral. A renewal has no
    # visitor: it is credited if the earning period of its user runs. A coupon that is a partner's
    # code credits that partner, without any click.
    (
        "Order placed",
        "django.db.models.signals.post_save",
        "affiliations.triggers.object_created",
        "store.Order",
        {
            "visitor": "affiliate_visitor",
            "user": "user",
            "reference": "pk",
            "amount": "total",
            "currency": "currency",
            "code": "coupon",
        },
    ),
    # These approve or reject the conversion of the same order. The request does not matter: here it
    # comes from the payment provider and belongs to no visitor.
    (
        "Order paid",
        "store.signals.order_paid",
        "affiliations.triggers.approve_conversions",
        "store.Order",
        {"of": "Order placed", "reference": "pk"},
    ),
    (
        "Order refunded",
        "store.signals.order_refunded",
        "affiliations.triggers.reject_conversions",
        "store.Order",
        {"of": "Order placed", "reference": "pk"},
    ),
]

# Affiliations: the demo's partner is on this machine. Omit this line in a real project, which must
# refuse callback URLs that lead into its own network.
AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]

# Affiliations: `python manage.py notify_affiliations` prints a digest to this address, and notices
# to the partners with "Notify by e-mail".
AFFILIATE_NOTICE_RECIPIENTS = ["affiliates@shop.example"]
AFFILIATE_SITE_URL = "http://127.0.0.1:8000"
