"""The URLs of the shop."""

from __future__ import annotations

from django.urls import path

from store import views

app_name = "store"

urlpatterns = [
    path("", views.product_list, name="products"),
    path("teas/<slug:slug>/", views.product_page, name="product"),
    path("orders/", views.order_list, name="orders"),
    path("orders/<uuid:key>/", views.order_page, name="order"),
    path("newsletter/", views.newsletter, name="newsletter"),
    path("sign-up/", views.sign_up, name="sign-up"),
    path("payments/webhook/", views.payment_webhook, name="payment-webhook"),
]
