"""The `demo` command: the shop, a partner's site and a payment provider, side by side."""

from __future__ import annotations

from django.apps import AppConfig


class DemoConfig(AppConfig):
    """What the demo needs; a project of yours has no such app."""

    name = "demo"
