"""
The addresses of the partners' own pages, for a host that wants them.

``path("partner/", include("affiliations.urls"))``
"""

from __future__ import annotations

from django.urls import path

from affiliations import views

app_name = "affiliations"

urlpatterns = [
    path("<str:uid>/<str:token>/", views.page, name="page"),
    path("<str:uid>/<str:token>/conversions.csv", views.conversions_file, name="conversions-file"),
    path("<str:uid>/<str:token>/settlements/<str:number>/", views.statement, name="statement"),
    path(
        "<str:uid>/<str:token>/settlements/<str:number>/statement.csv",
        views.statement_file,
        name="statement-file",
    ),
]
