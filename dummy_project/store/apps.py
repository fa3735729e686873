"""The shop's app."""

from __future__ import annotations

from django.apps import AppConfig


class StoreConfig(AppConfig):
    """The tea shop."""

    name = "store"
    verbose_name = "Tea shop"
