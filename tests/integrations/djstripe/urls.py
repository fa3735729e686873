from __future__ import annotations

from django.urls import include, path

from tests.urls import urlpatterns as ours

urlpatterns = [*ours, path("stripe/", include("djstripe.urls", namespace="djstripe"))]
