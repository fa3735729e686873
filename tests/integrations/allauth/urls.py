from __future__ import annotations

from django.urls import include, path

from tests.urls import urlpatterns as ours

urlpatterns = [*ours, path("accounts/", include("allauth.urls"))]
