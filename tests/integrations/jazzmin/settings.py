from __future__ import annotations

from tests.integrations.settings import *  # noqa: F403
from tests.integrations.settings import before

INSTALLED_APPS = before("django.contrib.admin", "jazzmin")
# No test asks other machines.
JAZZMIN_SETTINGS = {"use_google_fonts_cdn": False}
