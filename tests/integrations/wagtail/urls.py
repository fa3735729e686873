from __future__ import annotations

from django.urls import include, path
from wagtail import urls as wagtail_urls
from wagtail.admin import urls as wagtailadmin_urls

from tests.urls import urlpatterns as ours

urlpatterns = [
    *ours,
    path("cms/", include(wagtailadmin_urls)),
    path("pages/", include(wagtail_urls)),
]
