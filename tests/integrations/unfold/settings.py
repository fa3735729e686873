from __future__ import annotations

from tests.integrations.settings import *  # noqa: F403
from tests.integrations.settings import before

INSTALLED_APPS = before("django.contrib.admin", "unfold")
