"""The URLs of the payment provider."""

from __future__ import annotations

from django.urls import path

from payment_provider import views

urlpatterns = [
    path("", views.payments, name="payments"),
    path("pay/", views.checkout, name="checkout"),
    path("pay/<str:payment_id>/", views.pay, name="pay"),
    path("refund/<str:payment_id>/", views.refund, name="refund"),
    path("renew/<str:payment_id>/", views.renew, name="renew"),
    path("notify/<str:payment_id>/", views.notify_again, name="notify-again"),
]
