from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from tests.testapp import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("partner/", include("affiliations.urls")),
    path("", views.plain, name="plain"),
    path("page/", views.plain, name="page"),
    path("order/", views.order, name="order"),
    path("sign-up/", views.sign_up, name="sign_up"),
    path("something/", views.something, name="something"),
    path("stream/", views.stream, name="stream"),
    path("async/", views.aplain, name="aplain"),
    path("async/order/", views.aorder, name="aorder"),
    path("async/sign-up/", views.asign_up, name="asign_up"),
    path("async/something/", views.asomething, name="asomething"),
    path("async/stream/", views.astream, name="astream"),
    path("async/queue/", views.aqueue, name="aqueue"),
]
