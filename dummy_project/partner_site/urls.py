"""The URLs of the partner's site."""

from __future__ import annotations

from django.urls import path

from partner_site import views

urlpatterns = [
    path("", views.front_page, name="front-page"),
    path("out/", views.out, name="out"),
    path("callback/", views.callback, name="callback"),
    path("desk/", views.desk, name="desk"),
    path("callbacks.json", views.callbacks_json, name="callbacks-json"),
]
