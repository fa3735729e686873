from __future__ import annotations

from django.urls import include, path
from rest_framework.routers import SimpleRouter
from rest_framework.serializers import ModelSerializer
from rest_framework.viewsets import ModelViewSet

from affiliations.tracking import current_visitor
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
urlpatterns = [*ours, path("api/", include(router.urls))]
