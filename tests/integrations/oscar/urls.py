from __future__ import annotations

from django.apps import apps
from django.urls import include, path

from tests.urls import urlpatterns as ours

urlpatterns = [
    *ours,
    path("i18n/", include("django.conf.urls.i18n")),
    path("shop/", include(apps.get_app_config("oscar").urls[0])),
]
