from __future__ import annotations

from django.apps import AppConfig


class TestUserConfig(AppConfig):
    name = "tests.testapp_user"
