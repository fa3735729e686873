"""
The Admin: staff run partners and subscriptions, and look at what has happened.

What has happened is a fact: visitors, conversions and callbacks are shown and not changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.db import models
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations.conf import settings
from affiliations.models import (
    Callback,
    CallbackAttempt,
    Conversion,
    Partner,
    Subscription,
    Visitor,
)

if TYPE_CHECKING:
    from django.http import HttpRequest

_HTTPS: Mapping[type[models.Field[Any, Any]], Mapping[str, Any]] = {
    models.URLField: {"assume_scheme": "https"}
}


class SubscriptionForm(forms.ModelForm):
    """A subscription, with the triggers of the settings to choose from."""

    class Meta:
        model = Subscription
        fields = ["partner", "trigger", "callback_url", "active", "counting", "closes_referral"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = list(dict.fromkeys(entry[0] for entry in settings.triggers))
        choices = [("", "---------"), *((name, name) for name in names)]
        if (kept := self.instance.trigger) and kept not in names:
            choices.append((kept, gettext("%(name)s (no longer in the settings)") % {"name": kept}))
        if "trigger" in self.fields:  # not where somebody may only look
            self.fields["trigger"] = forms.ChoiceField(
                label=self.fields["trigger"].label, choices=choices
            )


class SubscriptionFormSet(forms.BaseInlineFormSet):
    """The subscriptions of one partner, each to another trigger."""

    def clean(self) -> None:
        """Refuse the same trigger twice, where both subscriptions are new and none is saved."""
        super().clean()
        seen: set[str] = set()
        for form in self.forms:
            data = getattr(form, "cleaned_data", {})
            trigger = data.get("trigger")
            if not trigger or data.get("DELETE"):
                continue
            if trigger in seen and not form.has_error("trigger"):
                form.add_error("trigger", gettext("This partner subscribes to this trigger twice."))
            seen.add(trigger)


class FactAdmin(admin.ModelAdmin):
    """Something that has happened: to be looked at, never to be made or changed by hand."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Refuse: facts come about by themselves."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        """Refuse: who may change may look, and no more."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        """Refuse: facts stay."""
        return False


class SubscriptionInline(admin.StackedInline):
    """The subscriptions on the page of their partner."""

    model = Subscription
    form = SubscriptionForm
    formset = SubscriptionFormSet
    formfield_overrides = _HTTPS
    extra = 0


@admin.register(Partner)
class PartnerAdmin(admin.ModelAdmin):
    """Partners, with the link to hand over and what they subscribe to."""

    list_display = ["name", "uid", "active", "created_on"]
    list_filter = ["active"]
    search_fields = ["name", "uid"]
    fields = ["name", "active", "uid", "tracking_link", "created_on"]
    readonly_fields = ["uid", "tracking_link", "created_on"]
    inlines = [SubscriptionInline]

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Partner | None:
        """Return the partner, knowing where this site is, for the link."""
        partner = super().get_object(request, object_id, from_field)
        if partner is not None:
            partner.site = request.build_absolute_uri("/")
        return partner

    @admin.display(description=_("tracking link"))
    def tracking_link(self, partner: Partner) -> str:
        """Return the link that the partner is to use."""
        return partner.link(getattr(partner, "site", "/")) if partner.pk else "-"


@admin.register(Subscription)
class SubscriptionAdmin(admin.ModelAdmin):
    """Subscriptions of all partners."""

    form = SubscriptionForm
    formfield_overrides = _HTTPS
    list_display = ["trigger", "partner", "callback_url", "active"]
    list_filter = ["active", "trigger"]
    list_select_related = ["partner"]
    search_fields = ["trigger", "callback_url", "partner__name"]
    autocomplete_fields = ["partner"]


@admin.register(Visitor)
class VisitorAdmin(FactAdmin):
    """Who came through which partner's link."""

    list_display = ["id", "partner", "user", "referred_on", "entry_point", "successful_on"]
    list_filter = ["partner", "referred_on", "successful_on"]
    list_select_related = ["partner", "user"]
    search_fields = ["click_id", "entry_point"]
    date_hierarchy = "referred_on"


@admin.register(Conversion)
class ConversionAdmin(FactAdmin):
    """What was credited to whom."""

    list_display = ["id", "trigger", "partner", "user", "reference", "amount", "currency", "status",
                    "created_on"]  # fmt: skip
    list_filter = ["partner", "trigger", "status", "created_on"]
    list_select_related = ["partner", "user"]
    search_fields = ["reference", "visitor__click_id"]
    date_hierarchy = "created_on"


class CallbackAttemptInline(admin.TabularInline):
    """The attempts on the page of their callback."""

    model = CallbackAttempt
    fields = readonly_fields = (
        "number",
        "started_on",
        "duration_ms",
        "status_code",
        "error",
        "message",
        "response_excerpt",
    )
    ordering = ["number"]
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Callback | None = None) -> bool:
        """Refuse: attempts come about by sending."""
        return False


@admin.register(Callback)
class CallbackAdmin(FactAdmin):
    """What partners were told, and how each attempt at it ended."""

    list_display = ["id", "subscription", "event", "status", "attempt_count", "created_on",
                    "delivered_on"]  # fmt: skip
    list_filter = ["status", "subscription__partner", "created_on"]
    list_select_related = ["subscription"]
    search_fields = ["url", "webhook_id"]
    date_hierarchy = "created_on"
    inlines = [CallbackAttemptInline]
