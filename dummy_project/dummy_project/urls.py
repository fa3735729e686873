"""The URLs of the dummy shop. The affiliations app needs none for tracking."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth import views as auth_views
from django.urls import include, path

urlpatterns = [
    path("", include("store.urls")),
    path("log-in/", auth_views.LoginView.as_view(redirect_authenticated_user=True), name="login"),
    path("log-out/", auth_views.LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
    # Affiliations: the partners' own pages, each behind a private link from the Admin.
    path("partner/", include("affiliations.urls")),
]
