"""
The URLs of the partner pages, for the host to include.

``path("partner/", include("affiliations.urls"))``
"""

from __future__ import annotations

from django.urls import path

from affiliations.partner_pages import views

app_name = "affiliations"

urlpatterns = [
    path("<str:uid>/<str:token>/", views.page, name="page"),
    path("<str:uid>/<str:token>/statistics.csv", views.statistics_file, name="statistics-file"),
    path("<str:uid>/<str:token>/clicks.csv", views.clicks_file, name="clicks-file"),
    path("<str:uid>/<str:token>/conversions.csv", views.conversions_file, name="conversions-file"),
    path("<str:uid>/<str:token>/settlements/<str:number>/", views.statement, name="statement"),
    path(
        "<str:uid>/<str:token>/settlements/<str:number>/statement.csv",
        views.statement_file,
        name="statement-file",
    ),
]
