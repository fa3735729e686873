"""The `demo` command: runs the shop, a partner's site and a payment provider side by side."""

from __future__ import annotations

from django.apps import AppConfig


class DemoConfig(AppConfig):
    """The app of the demo; your own project does not need it."""

    name = "demo"
