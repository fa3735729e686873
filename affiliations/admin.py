"""
The Admin: staff run partners and subscriptions, and look at what has happened.

What has happened is a fact: visitors, conversions and callbacks are shown and not changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.db import DataError, connections, models
from django.urls import get_script_prefix
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
    from django.contrib.admin.views.main import ChangeList
    from django.http import HttpRequest, HttpResponse

#: How databases fail at what was never a value of theirs: a NUL, a huge number, text for a number.
_UNANSWERABLE = (DataError, OverflowError, ValueError)

_URLS: Mapping[type[models.Field[Any, Any]], Mapping[str, Any]] = {
    models.URLField: {
        "assume_scheme": "https",
        # Not the Admin's own, which adds a link: a click would call the partner.
        "widget": forms.URLInput(attrs={"class": "vURLField"}),
    }
}


def _shown(trigger: str) -> str:
    """Return the name of a trigger, marked where it can never fire."""
    if trigger in {entry[0] for entry in settings.triggers}:
        return trigger
    return gettext("%(name)s (no longer in the settings)") % {"name": trigger}


class SubscriptionForm(forms.ModelForm):
    """A subscription, with the triggers of the settings to choose from."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "trigger" in self.fields:  # not where somebody may only look
            names = [entry[0] for entry in settings.triggers]
            if self.instance.trigger:
                names.append(self.instance.trigger)
            self.fields["trigger"] = forms.ChoiceField(
                label=self.fields["trigger"].label,
                help_text=self.fields["trigger"].help_text,
                choices=[
                    ("", "---------"),
                    *((name, _shown(name)) for name in dict.fromkeys(names)),
                ],
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
            chosen = form.has_changed() and "trigger" in form.changed_data
            if trigger in seen and chosen and not form.has_error("trigger"):
                form.add_error("trigger", gettext("This partner subscribes to this trigger twice."))
            seen.add(trigger)


class ListAdmin(admin.ModelAdmin):
    """Something whose list answers whatever stands in its address."""

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        """Send who asks for what no database can answer back to the whole list, as Django does."""
        try:
            changelist = super().get_changelist_instance(request)
        except _UNANSWERABLE as error:
            raise IncorrectLookupParameters(error) from error
        if not connections[changelist.queryset.db].features.has_zoneinfo_database:
            # MySQL as it is installed: it could not tell on which day something happened.
            changelist.date_hierarchy = None
        return changelist

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet, search_term: str
    ) -> tuple[models.QuerySet, bool]:
        """Search without NULs, which lists refuse and an autocomplete of the host does not."""
        return super().get_search_results(request, queryset, search_term.replace("\0", ""))

    def response_action(
        self, request: HttpRequest, queryset: models.QuerySet, *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        """Run the action, unless it is to run on what can be the key of no row."""
        try:
            queryset.filter(pk__in=request.POST.getlist(ACTION_CHECKBOX_NAME)).exists()
        except _UNANSWERABLE:
            return None
        return super().response_action(request, queryset, *args, **kwargs)


class FactAdmin(ListAdmin):
    """Something that has happened: to be looked at, never to be made or changed by hand."""

    show_full_result_count = False

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
    formfield_overrides = _URLS
    extra = 0


@admin.register(Partner)
class PartnerAdmin(ListAdmin):
    """Partners, with the link to hand over and what they subscribe to."""

    list_display = ["name", "active", "uid", "tracking_link", "created_on"]
    list_filter = ["active"]
    search_fields = ["name", "uid"]
    ordering = ["name"]
    readonly_fields = ["uid", "tracking_link", "created_on"]
    fieldsets = [
        (None, {"fields": ["name", "active", "created_on"]}),
        (
            _("For the partner"),
            {
                "fields": ["uid", "tracking_link"],
                "description": _(
                    "The link leads to the front page. For any other page put the part from “?” "
                    "behind its address, or “&” in place of “?” where the address has one."
                ),
            },
        ),
    ]
    inlines = [SubscriptionInline]

    def get_queryset(self, request: HttpRequest) -> models.QuerySet:
        """Return the partners, each knowing where this site is, for the link."""
        site = request.build_absolute_uri(get_script_prefix())
        partners: models.QuerySet = super().get_queryset(request).annotate(site=models.Value(site))
        return partners

    def get_fieldsets(self, request: HttpRequest, obj: Partner | None = None) -> Any:
        """Leave out, while a partner is new, what only a saved one has."""
        return self.fieldsets if obj else self.fieldsets[:1]

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[Any]]:
        """Keep whoever has sent visitors; say so, rather than list the visitors."""
        kept = [
            gettext(
                "%(partner)s has sent visitors, who are kept. Make the partner inactive instead."
            )
            % {"partner": partner}
            for partner in objs
            if partner.visitors.exists()
        ]
        return ([], {}, set(), kept) if kept else super().get_deleted_objects(objs, request)

    @admin.display(description=_("tracking link"))
    def tracking_link(self, partner: Any) -> str:
        """Return the link that the partner is to use."""
        return str(partner.link(partner.site))


@admin.register(Subscription)
class SubscriptionAdmin(ListAdmin):
    """Subscriptions of all partners."""

    form = SubscriptionForm
    formfield_overrides = _URLS
    list_display = ["trigger_name", "partner", "url", "active"]
    list_filter = ["active", "trigger", "partner"]
    list_select_related = ["partner"]
    search_fields = ["trigger", "callback_url", "partner__name"]
    ordering = ["partner__name", "trigger"]

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[Any]]:
        """Keep what has counted conversions; say so, rather than list the conversions."""
        kept = [
            gettext(
                "%(subscription)s has counted conversions, which are kept. "
                "Make the subscription inactive instead."
            )
            % {"subscription": subscription}
            for subscription in objs
            if subscription.conversions.exists() or subscription.callbacks.exists()
        ]
        return ([], {}, set(), kept) if kept else super().get_deleted_objects(objs, request)

    @admin.display(description=_("trigger"), ordering="trigger")
    def trigger_name(self, subscription: Subscription) -> str:
        """Return the trigger, marked where the settings do not have it."""
        return _shown(subscription.trigger)

    @admin.display(description=_("callback URL"), ordering="callback_url")
    def url(self, subscription: Subscription) -> str:
        """Return the URL as text: a click would call the partner, with the placeholders in it."""
        return subscription.callback_url


@admin.register(Visitor)
class VisitorAdmin(FactAdmin):
    """Who came through which partner's link."""

    list_display = ["id", "partner", "user", "referred_on", "successful_on", "entry_point"]
    list_filter = ["partner", "referred_on", "successful_on"]
    list_select_related = ["partner", "user"]
    search_fields = ["=id", "click_id", "entry_point"]
    date_hierarchy = "referred_on"
    fields = ["id", "partner", "user", "referred_on", "entry_point", "referrer", "click_id", "sub1",
              "sub2", "sub3", "sub4", "sub5", "successful_on", "closed_on"]  # fmt: skip
    readonly_fields = ["id", "referred_on"]


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

    list_display = ["id", "partner", "subscription", "status", "attempt_count", "created_on",
                    "delivered_on"]  # fmt: skip
    list_filter = ["status", "partner", "created_on"]
    list_select_related = ["partner", "subscription"]
    search_fields = ["url", "webhook_id"]
    date_hierarchy = "created_on"
    inlines = [CallbackAttemptInline]
