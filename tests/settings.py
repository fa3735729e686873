"""
Settings of the test project; the environment chooses the database and the user model.

AFFILIATIONS_TEST_DATABASE    sqlite (default), postgresql or mariadb
AFFILIATIONS_TEST_USER_MODEL  empty (django.contrib.auth's) or "testapp_user.User"
AFFILIATIONS_TEST_SERVICES    what is there of rabbitmq, redis, django-tasks-db, chromium (with
                              commas)
AFFILIATIONS_TEST_LONG        "1" for a release: ten times as many rows, kills and examples
AFFILIATIONS_TEST_NAME        part of the databases' names, so that two runs do not meet
PGHOST, PGPORT, PGUSER, PGPASSWORD, MYSQL_HOST, MYSQL_PORT, MYSQL_USER, MYSQL_PASSWORD
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import django

DATABASE = os.environ.get("AFFILIATIONS_TEST_DATABASE") or "sqlite"
SERVICES = [name for name in os.environ.get("AFFILIATIONS_TEST_SERVICES", "").split(",") if name]
LONG = os.environ.get("AFFILIATIONS_TEST_LONG") == "1"
#: A page or a command costs as many queries for this number of rows as for ten.
MANY_ROWS = 10_000 if LONG else 1_000

# The name of the run and of the pytest-xdist worker are in the environment, so that a server that a
# test starts finds the databases of that test.
RUN = os.environ.setdefault(
    "AFFILIATIONS_TEST_NAME", os.environ.get("TOX_ENV_NAME") or f"manual_{os.getpid()}"
)
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
NAME = re.sub(r"\W", "_", f"affiliations_{RUN}_{WORKER}".rstrip("_"))


def sqlite(name: str) -> dict[str, Any]:
    """Describe a SQLite database in a file, because threads do not share one in memory."""
    path = str(Path(tempfile.gettempdir()) / f"{name}.sqlite3")
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        # No test cuts the power: a commit need not wait for the disk.
        "OPTIONS": {"timeout": 20, "init_command": "PRAGMA synchronous = OFF"},
        "TEST": {"NAME": path},
    }


# NAME and TEST.NAME are the same: a process that a test starts needs nothing but these settings.
if DATABASE == "sqlite":
    default = sqlite(NAME)
elif DATABASE == "postgresql":
    default = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": NAME,
        "HOST": os.environ.get("PGHOST", "127.0.0.1"),
        "PORT": os.environ.get("PGPORT", "5432"),
        "USER": os.environ.get("PGUSER", "postgres"),
        "PASSWORD": os.environ.get("PGPASSWORD", ""),
        "TEST": {"NAME": NAME},
    }
elif DATABASE == "mariadb":
    default = {
        "ENGINE": "django.db.backends.mysql",
        "NAME": NAME,
        "HOST": os.environ.get("MYSQL_HOST", "127.0.0.1"),
        "PORT": os.environ.get("MYSQL_PORT", "3306"),
        "USER": os.environ.get("MYSQL_USER", "root"),
        "PASSWORD": os.environ.get("MYSQL_PASSWORD", ""),
        "OPTIONS": {"charset": "utf8mb4"},
        "TEST": {"NAME": NAME, "CHARSET": "utf8mb4"},
    }
else:
    raise ValueError(f"AFFILIATIONS_TEST_DATABASE is {DATABASE!r}: sqlite, postgresql or mariadb?")

DATABASES = {"default": default, "other": sqlite(f"{NAME}_other")}
# On SQLite the tests try the harder case: transactions that begin as readers.
SILENCED_SYSTEM_CHECKS = ["affiliations.W008"]
DATABASE_ROUTERS = ["tests.routers.ElsewhereRouter"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "affiliations",
    "tests.testapp",
]

AUTH_USER_MODEL = os.environ.get("AFFILIATIONS_TEST_USER_MODEL") or "auth.User"
if AUTH_USER_MODEL == "testapp_user.User":
    INSTALLED_APPS.append("tests.testapp_user")

if "django-tasks-db" in SERVICES:
    INSTALLED_APPS.append("django_tasks_db")

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "affiliations.middleware.AffiliateVisitorsRegistrationMiddleware",
]
if "chromium" in SERVICES:
    # Here, since a live server has loaded its middleware before a test could say so.
    MIDDLEWARE.insert(0, "tests.chromium.strict")

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
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

ROOT_URLCONF = "tests.urls"
ALLOWED_HOSTS = ["testserver", "localhost", "127.0.0.1", ".shop.example"]
SECRET_KEY = "only for the tests"
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"
if django.VERSION >= (6, 1):
    MAILERS: dict[str, Any] = {"default": {"BACKEND": "django.core.mail.backends.smtp.EmailBackend",
                                           "OPTIONS": {"host": "127.0.0.1"}}}  # fmt: skip
# The only purpose of a slow hash is to slow somebody down.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

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
        "testapp.Order",
    ),
]
# No test sends anything by accident.
AFFILIATE_CALLBACK_DISPATCHER = "tests.dispatchers.ignored"
