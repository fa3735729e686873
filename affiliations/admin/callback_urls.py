"""The field of a callback URL: the placeholders explained beside it, and what comes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django import forms
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import models
from django.http import JsonResponse
from django.urls import NoReverseMatch, path, reverse
from django.utils.translation import gettext_lazy as _

from affiliations import placeholders
from affiliations.models import Subscription

if TYPE_CHECKING:
    from django.contrib.admin.options import BaseModelAdmin
    from django.http import HttpRequest

    _Fields = BaseModelAdmin
else:
    _Fields = object

#: What each placeholder becomes, in the order in which they are shown.
EXPLANATIONS: Mapping[str, Any] = {
    "visitor_id": _("This site’s number of the visitor."),
    "click_id": _("The partner’s own id of the click, from the link."),
    "sub1": _("The first label of the partner, from the link."),
    "sub2": _("The second label."),
    "sub3": _("The third label."),
    "sub4": _("The fourth label."),
    "sub5": _("The fifth label."),
    "partner_uid": _("The partner’s uid."),
    "trigger": _("The trigger’s name."),
    "event": _("What is told: conversion, approval or rejection."),
    "reference": _("This site’s own id of what was done, such as the order’s number."),
    "amount": _("The money that the payout is reckoned on, such as 49.90."),
    "currency": _("Its currency, such as EUR."),
    "payout": _("What the conversion earns the partner, such as 4.99."),
    "payout_currency": _("Its currency."),
    "status": _("What was decided: pending, approved or rejected."),
    "callback_id": _("The same in every attempt, so that nothing is counted twice."),
    "timestamp": _("When it happened, in seconds since 1970."),
}


def preview(url: str, trigger: str = "", partner_uid: str = "") -> tuple[str, list[str]]:
    """Return a callback URL with sample values in it, and else what is wrong with it."""
    if not url:
        return "", []
    # Here, since what it is sent with takes a fraction of a second to import, in each process.
    from affiliations.callbacks import sample

    subscription = Subscription(callback_url=url, trigger=trigger)
    try:
        Subscription._meta.get_field("callback_url").run_validators(url)
        subscription.validate_callback_url()
        facts = {"trigger": trigger or "test-trigger", "partner_uid": partner_uid or "test-uid"}
        return sample.rendered(url, callback_id="0" * 32, timestamp=1_700_000_000, **facts), []
    except ValidationError as error:
        return "", error.messages


class CallbackURLInput(forms.URLInput):
    """
    A callback URL, with what may stand in it and what the partner would receive.

    Not the Admin's own field, which adds a link: a click would call the partner.
    """

    template_name = "admin/affiliations/widgets/callback_url.html"

    def __init__(self, preview_url: str = "") -> None:
        super().__init__(attrs={"class": "vURLField"})
        self.preview_url = preview_url

    def get_context(self, name: str, value: Any, attrs: dict[str, Any] | None) -> dict[str, Any]:
        """Say what the placeholders are, and how the URL as it is stored looks with samples."""
        context: dict[str, Any] = super().get_context(name, value, attrs)
        context["widget"] |= {
            "placeholders": [
                (f"{{{name}}}", EXPLANATIONS[name], name in placeholders.IDENTIFYING)
                for name in placeholders.NAMES
            ],
            "preview": preview(str(value or ""))[0],
            "preview_url": self.preview_url,
        }
        return context


class CallbackURLFields(_Fields):
    """Something in the Admin with a callback URL among its fields."""

    def formfield_for_dbfield(
        self, db_field: models.Field[Any, Any], request: HttpRequest, **kwargs: Any
    ) -> forms.Field | None:
        """Give a callback URL its own widget."""
        if db_field.name == "callback_url":
            kwargs |= {"widget": CallbackURLInput(self._preview_url()), "assume_scheme": "https"}
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    def _preview_url(self) -> str:
        try:
            name = "admin:affiliations_subscription_preview"
            return reverse(name, current_app=self.admin_site.name)
        except NoReverseMatch:  # a site of the host's own, without subscriptions
            return ""


class PreviewMixin(_Fields):
    """Answers what a URL becomes while it is typed."""

    def get_urls(self) -> list[Any]:
        """Put the preview before the Admin's own addresses."""
        view = self.admin_site.admin_view(self.preview_view)
        name = "affiliations_subscription_preview"
        return [path("preview/", view, name=name), *super().get_urls()]  # type: ignore[misc] # a mixin

    def preview_view(self, request: HttpRequest) -> JsonResponse:
        """Say what a URL becomes, or what is wrong with it."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        rendered, mistakes = preview(
            request.GET.get("url", "").strip().replace("\0", ""), request.GET.get("trigger", "")
        )
        return JsonResponse({"rendered": rendered, "mistakes": mistakes})
