from __future__ import annotations

from types import ModuleType

from django.urls import include, path
from rest_framework.routers import SimpleRouter
from rest_framework.serializers import ModelSerializer
from rest_framework.viewsets import ModelViewSet

from affiliations.tracking import current_visitor
from tests.documented import DOCS, blocks
from tests.testapp.models import Order
from tests.urls import urlpatterns as ours


class OrderSerializer(ModelSerializer):
    class Meta:
        model = Order
        fields = ["id", "total", "currency"]


class OrderViewSet(ModelViewSet):
    queryset = Order.objects.all()
    serializer_class = OrderSerializer

    def perform_create(self, serializer: OrderSerializer) -> None:
        """Keep the visitor with the order, whom Django REST framework's own request has."""
        serializer.save(affiliate_visitor=current_visitor(self.request))


router = SimpleRouter()
router.register("orders", OrderViewSet, basename="api-order")

# The view that the page on referring shows.
[shown] = [
    block for block in blocks(DOCS / "referring.rst", "python") if "rest_framework" in block.code
]
api = ModuleType("shop.api")
exec(shown.code, vars(api))

urlpatterns = [
    *ours,
    path("api/referred/", api.referred),
    path("api/", include(router.urls)),
]
