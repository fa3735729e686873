"""The callback URL field, with its placeholders and preview."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.db import models
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.translation import gettext

from affiliations import placeholders, url_mistakes
from affiliations.exceptions import InvalidCallBackURL
from affiliations.models import Subscription

if TYPE_CHECKING:
    from django.contrib.admin.options import BaseModelAdmin
    from django.http import HttpRequest

    _Fields = BaseModelAdmin
else:
    _Fields = object


#: The name of the buttons that correct a callback URL.
CORRECT = "_correct"
_MAX_CORRECTIONS = 20


def preview(
    url: str, trigger: str = "", partner_uid: str = "", method: str = Subscription.Method.GET
) -> tuple[str, list[str]]:
    """
    Return a callback URL with sample values, and the error messages if it is invalid.

    The body of a POST follows below the URL.
    """
    if not url:
        return "", []
    subscription = Subscription(callback_url=url, trigger=trigger, method=method)
    if found := subscription.callback_url_mistakes():
        return "", [mistake.message for mistake in found]
    values = placeholders.samples()
    values["trigger"] = trigger or values["trigger"]
    values["partner_uid"] = partner_uid or values["partner_uid"]
    try:
        request = placeholders.render(url, values)
    except InvalidCallBackURL as error:
        return "", error.messages
    if method == Subscription.Method.POST:
        request += f"\n\n{placeholders.body('test', timezone.now(), values)}"
    return request, []


def corrections(url: str, method: str) -> dict[str, str]:
    """Return the label of each button that corrects a callback URL, with the URL it leads to."""
    rules = Subscription(method=method).url_rules
    found = [one.correction for one in url_mistakes.mistakes(url, rules) if one.correction]
    doubts = [one.correction for one in url_mistakes.doubts(url) if one.correction]
    labels = [*found, *doubts][:_MAX_CORRECTIONS]
    every = {gettext("Correct all"): url_mistakes.correct(url, rules)} if len(found) > 1 else {}
    return every | {label: url_mistakes.correct_one(url, label, rules) for label in labels}


def doubts(url: str) -> list[str]:
    return [doubt.message for doubt in url_mistakes.doubts(url)]


class CallbackURLInput(forms.URLInput):
    """
    A callback URL, with the placeholders explained and a preview of the URL.

    Not the Admin's own widget, which adds a link: a click on it would call the partner.
    """

    template_name = "admin/affiliations/widgets/callback_url.html"
    #: Set by the form.
    method: str = Subscription.Method.GET
    #: The URL of the row, which is kept even if it would be refused today.
    stored = ""
    is_corrected = False

    def __init__(self, preview_url: str = "") -> None:
        super().__init__(attrs={"class": "vURLField"})
        self.preview_url = preview_url

    def get_context(self, name: str, value: Any, attrs: dict[str, Any] | None) -> dict[str, Any]:
        context: dict[str, Any] = super().get_context(name, value, attrs)
        url = str(value or "")
        rendered, mistakes = preview(url, method=self.method)
        context["widget"] |= {
            "placeholders": [
                (f"{{{item.name}}}", item.explanation) for item in placeholders.PLACEHOLDERS
            ],
            "preview": rendered,
            # The mistakes of a changed URL are shown as errors of the form.
            "mistakes": mistakes if url == self.stored else [],
            "doubts": doubts(url),
            "corrections": corrections(url, self.method),
            "is_corrected": self.is_corrected,
            "button": CORRECT,
            "preview_url": self.preview_url,
        }
        return context


class CallbackURLFieldMixin(_Fields):
    """A model or inline of the Admin with a callback URL among its fields."""

    def formfield_for_dbfield(
        self, db_field: models.Field[Any, Any], request: HttpRequest, **kwargs: Any
    ) -> forms.Field | None:
        if db_field.name == "callback_url":
            kwargs["widget"] = CallbackURLInput(self._preview_url())
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    def _preview_url(self) -> str:
        try:
            name = "admin:affiliations_subscription_preview"
            return reverse(name, current_app=self.admin_site.name)
        except NoReverseMatch:  # an Admin site of the host that does not register subscriptions
            return ""
