from __future__ import annotations

from typing import Any

import pytest
from django.urls import include, path
from rest_framework.routers import SimpleRouter

from tests.documented import DOCS, add_shop
from tests.testapp.models import Order
from tests.urls import urlpatterns as ours

# The views that two pages show.
with pytest.MonkeyPatch.context() as patch:
    orders: Any = add_shop(patch, DOCS / "guides/rest_framework.rst", Order).orders
    api: Any = add_shop(patch, DOCS / "guides/single_page_apps.rst", Order).api

router = SimpleRouter()
router.register("orders", orders.OrderViewSet, basename="api-order")

urlpatterns = [
    *ours,
    path("api/referred/", api.referred),
    path("api/", include(router.urls)),
]
