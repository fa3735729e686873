from __future__ import annotations

from django.urls import include, path

from tests.urls import urlpatterns as ours

urlpatterns = [path("grappelli/", include("grappelli.urls")), *ours]
