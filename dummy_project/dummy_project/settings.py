"""
Settings of the dummy shop.

They are what `django-admin startproject` writes, the shop's own lines, and what a project needs in
order to use the app. The last stand under comments that begin with "Affiliations".
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

BASE_DIR = Path(__file__).resolve().parent.parent

# The dummy shop runs on this machine only; a real one keeps its keys out of its code.
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
    # The shop, and the `demo` command, which is of no use to another project.
    "store",
    "demo",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    # Affiliations: registers who arrives through a partner's link. After the session, which
    # remembers the visitor, and after authentication, which tells who the visitor is.
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
        # `demo --once` names a database of its own, unless this does.
        "NAME": os.environ.get("SHOP_DATABASE", BASE_DIR / "db.sqlite3"),
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

# The shop: where a buyer pays, and the secret that the shop and its payment provider share.
PAYMENT_URL = os.environ.get("SHOP_PAYMENT_URL", "http://127.0.0.1:8002/")
PAYMENT_SECRET = os.environ.get("SHOP_PAYMENT_SECRET", "shared-with-the-payment-provider")

# Affiliations: what a partner can be paid for. Each trigger is a name, which a partner's
# subscription in the Admin refers to, and the signal, the receiver and the sender behind it.
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
    # The fifth item says where an order keeps what the partner is told, and whose order it is.
    # Without the visitor, an order that staff type in would be credited to their own referral.
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
        },
    ),
    # These count nothing. They decide what was counted for the same order, whoever's request the
    # signal is sent in: here the payment provider's, which belongs to no visitor.
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

# Affiliations: the demo's partner lives on this machine. Leave this line out of a real project,
# where a callback URL that leads into your own network must be refused.
AFFILIATE_CALLBACK_ALLOW_PRIVATE_ADDRESSES = True
