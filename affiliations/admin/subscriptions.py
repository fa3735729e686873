"""Subscriptions: their list, their page, and their rows in the page of a partner."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import models
from django.db.models import Prefetch
from django.http import JsonResponse
from django.urls import path
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.text import Truncator
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from affiliations.admin.base import (
    PAYOUT_FUNCTION,
    ListAdmin,
    badge,
    callback_badge,
    column,
    may_view,
    payout_value_display,
)
from affiliations.admin.bulk_edit import BulkEditMixin
from affiliations.admin.callback_urls import (
    CORRECT,
    CallbackURLFieldMixin,
    corrections,
    doubts,
    preview,
)
from affiliations.admin.changes import ChangesInlineMixin
from affiliations.admin.filters import EndpointFilter, PartnerFilter, TriggerFilter
from affiliations.admin.pages import ObjectViewsMixin, object_view
from affiliations.admin.subscription_warnings import (
    of_subscription,
    report_earning,
    warn_of_subscriptions,
)
from affiliations.callbacks import suspension
from affiliations.conf import settings
from affiliations.dates import in_active_zone
from affiliations.exceptions import InvalidCallBackURL
from affiliations.models import Callback, CallbackAttempt, Partner, Subscription

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

#: The number of callbacks on the page of a partner or a subscription.
LATEST = 10
_LATEST_TESTS = 3
_URL_LENGTH = 70

#: The fields of a subscription, in rows: trigger, counting, period, payout, approval, callbacks.
_FIELDS = (
    "trigger",
    ("callback_url", "method"),
    "active",
    ("counting", "closes_referral"),
    ("earns_for", "earns_months"),
    ("payout_type", "payout_value", "payout_currency"),
    ("approval", "approve_after"),
    ("call_on_conversion", "call_on_approval", "call_on_rejection"),
)

#: The fields for users who may only view them.
_VIEWED = tuple(
    ("payout_type", "payout_value_display") if "payout_value" in row else row for row in _FIELDS
)


def _trigger_label(trigger: str) -> str:
    if trigger in settings.counting_triggers:
        return trigger
    return gettext("%(name)s (no longer in the settings)") % {"name": trigger}


class SubscriptionForm(forms.ModelForm):
    """A subscription, with the triggers of the settings to choose from."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if (value := self.initial.get("payout_value")) is not None:
            # Not a text: the form compares it with the number that is typed.
            self.initial["payout_value"] = Decimal(f"{value.normalize():f}")
        method = self.instance.method
        for name in {"method", "earns_for"} & self.fields.keys():
            self.fields[name].required = False  # A form without it keeps the value.
        if "method" in self.fields:
            method = self["method"].value() or method
        if "callback_url" in self.fields:
            self._prepare_url(method)
        if "payout_type" in self.fields and settings.has_payout_function:
            self.fields["payout_type"].help_text = PAYOUT_FUNCTION
        if "trigger" in self.fields:  # not if the user may only view the form
            names = list(settings.counting_triggers)
            if self.instance.trigger:
                names.append(self.instance.trigger)
            self.fields["trigger"] = forms.ChoiceField(
                label=self.fields["trigger"].label,
                help_text=self.fields["trigger"].help_text,
                choices=[
                    ("", "---------"),
                    *((name, _trigger_label(name)) for name in dict.fromkeys(names)),
                ],
            )

        for name, text in of_subscription(self.instance).items() if self.instance.pk else ():
            if name in self.fields:
                field = self.fields[name]
                field.help_text = format_html(
                    '{} <span class="aff-caution">{}</span>', field.help_text, text
                )

    def _prepare_url(self, method: str) -> None:
        """Tell the widget what it needs, and correct the URL if one of its buttons was used."""
        widget: Any = self.fields["callback_url"].widget
        widget.method = method
        if method == self.instance.method:
            widget.stored = self.instance.callback_url
        name, _space, label = self.data.get(CORRECT, "").partition(" ")
        if name == self.add_prefix("callback_url"):
            url = self.data.get(name, "").strip()
            self.data: Any = self.data.copy()
            self.data[name] = corrections(url, method).get(label, url)
            widget.is_corrected = self.data[name] != url


class SubscriptionFormSet(forms.BaseInlineFormSet):
    def clean(self) -> None:
        """Refuse two new subscriptions to one trigger: the model compares with stored ones only."""
        super().clean()
        seen: set[str] = set()
        for form in self.forms:
            data = getattr(form, "cleaned_data", {})
            trigger = data.get("trigger")
            if not trigger or data.get("DELETE"):
                continue
            chosen = form.has_changed() and "trigger" in form.changed_data
            if trigger in seen and chosen and not form.has_error("trigger"):
                form.add_error(
                    "trigger",
                    gettext("This trigger is selected twice. Remove one of the two subscriptions."),
                )
            seen.add(trigger)


class SubscriptionInline(CallbackURLFieldMixin, ChangesInlineMixin, admin.StackedInline):
    model = Subscription
    form = SubscriptionForm
    formset = SubscriptionFormSet
    extra = 0
    show_change_link = True

    payout_value_display = payout_value_display

    def get_fields(self, request: HttpRequest, obj: Partner | None = None) -> Any:
        return _VIEWED if self._is_viewed(request, obj) else _FIELDS

    def get_readonly_fields(self, request: HttpRequest, obj: Partner | None = None) -> Any:
        return ["payout_value_display"] if self._is_viewed(request, obj) else []

    def _is_viewed(self, request: HttpRequest, obj: Partner | None) -> bool:
        """Tell whether the user may neither add nor change a row."""
        may_add = self.has_add_permission(request, obj)
        return not (may_add or self.has_change_permission(request, obj))


@admin.register(Subscription)
class SubscriptionAdmin(BulkEditMixin, CallbackURLFieldMixin, ListAdmin):
    form = SubscriptionForm
    actions = ["edit_selected"]
    list_display = ["trigger_display", "partner_display", "callback_url_start", "earns_display",
                    "active", "callbacks"]  # fmt: skip
    list_filter = ["active", EndpointFilter, "earns_for", TriggerFilter, PartnerFilter]
    list_select_related = ["partner"]
    search_fields = ["trigger", "callback_url", "partner__name"]
    ordering = ["partner__name", "trigger"]
    object_views = ["send_test", "resume"]

    # As text: a click on a link would call the partner, with the placeholders in the URL.
    callback_url_start = column(
        "callback_url",
        _("callback URL"),
        ordering="callback_url",
        label=lambda url: Truncator(url).chars(_URL_LENGTH),
    )
    partner_display = column("partner", _("partner"), ordering="partner__name")
    payout_value_display = payout_value_display
    earns_display = column("earns_display", _("earns for"), ordering="earns_for")

    def get_readonly_fields(self, request: HttpRequest, obj: Subscription | None = None) -> Any:
        """Keep the partner of a subscription, since its conversions are the partner's."""
        return [self._partner_field(request, obj)] if obj else []

    def get_fields(self, request: HttpRequest, obj: Subscription | None = None) -> Any:
        is_viewed = obj is not None and not self.has_change_permission(request, obj)
        return (self._partner_field(request, obj), *(_VIEWED if is_viewed else _FIELDS))

    def _partner_field(self, request: HttpRequest, obj: Subscription | None) -> str:
        """Return the field, or a column without a link if the user may not view partners."""
        return "partner" if obj is None or may_view(request, Partner) else "partner_display"

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.preview_view)
        name = "affiliations_subscription_preview"
        return [path("preview/", view, name=name), *super().get_urls()]

    def preview_view(self, request: HttpRequest) -> JsonResponse:
        """Return the preview of an unsaved callback URL as JSON, for ``admin.js``."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        url, method = request.GET.get("url", "").strip(), request.GET.get("method", "")
        rendered, mistakes = preview(url, request.GET.get("trigger", ""), method=method)
        return JsonResponse(
            {
                "rendered": rendered,
                "mistakes": mistakes,
                "doubts": doubts(url),
                "corrections": corrections(url, method),
            }
        )

    def save_model(
        self, request: HttpRequest, obj: Subscription, form: forms.ModelForm, change: bool
    ) -> None:
        super().save_model(request, obj, form, change)
        report_earning(request, [form])
        warn_of_subscriptions(request, obj.partner)

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[Any]]:
        """Protect a subscription with conversions or callbacks: show a message, and no list."""
        protected = [
            gettext(
                "%(subscription)s has conversions or callbacks and cannot be deleted. Make the "
                "subscription inactive instead."
            )
            % {"subscription": subscription}
            for subscription in objs
            if subscription.conversions.exists() or subscription.callbacks.exists()
        ]
        if protected:
            return [], {}, set(), protected
        return super().get_deleted_objects(objs, request)

    def offers(self, name: str, row: Subscription) -> bool:
        if name == "resume":
            return row.is_suspended or row.is_paused
        return bool(row.callback_url)

    def get_panels(self, request: HttpRequest, row: Subscription) -> dict[str, Any]:
        return {
            "failing": [failure_context(self, request, row)] if row.is_failing else [],
            "latest": latest_callbacks(self, request, row.callbacks.all()),
            "all_callbacks_url": f"{self.list_url(Callback)}?subscription={row.pk}"
            if self.admin_site.is_registered(Callback)
            else "",
        }

    @admin.display(description=_("trigger"), ordering="trigger")
    def trigger_display(self, subscription: Subscription) -> str:
        name = _trigger_label(subscription.trigger)
        if not of_subscription(subscription):
            return name
        return format_html("{} {}", name, badge("pending", gettext("warning")))

    @admin.display(description=_("callbacks"))
    def callbacks(self, subscription: Subscription) -> str:
        """Return the state of the callbacks: suspended, paused, failing, OK or none."""
        if subscription.is_suspended:
            return badge("rejected", gettext("suspended"))
        if (until := subscription.callbacks_paused_until) is not None:
            time = date_format(in_active_zone(until), "SHORT_DATETIME_FORMAT")
            return badge("pending", gettext("paused until %(time)s") % {"time": time})
        if subscription.failure_count:
            text = ngettext("%(count)s failure", "%(count)s failures", subscription.failure_count)
            return badge("pending", text % {"count": subscription.failure_count})
        return badge("delivered", gettext("OK")) if subscription.callback_url else "-"

    @object_view(_("Send test callback"), is_atomic=False, stays=True)
    def send_test(self, request: HttpRequest, subscription: Subscription) -> HttpResponse:
        """Send a callback with sample values now, and show the request and the response."""
        from affiliations.callbacks import test_callback

        uid = subscription.partner.uid
        rendered, mistakes = preview(
            subscription.callback_url, subscription.trigger, uid, subscription.method
        )
        if not subscription.callback_url:
            mistakes = [
                gettext(
                    "This subscription has no callback URL. Enter one in the subscription to send "
                    "callbacks."
                )
            ]
        if request.method == "POST" and not mistakes:
            try:
                attempt = test_callback.send_test_callback(subscription)
            except InvalidCallBackURL as error:  # changed by another user in the meantime
                mistakes = error.messages
            else:
                text = (
                    gettext("A test callback was sent.")
                    if attempt.was_sent
                    else gettext("The test callback was not sent.")
                )
                return self.done(request, subscription, text, "send_test")
        tests = (
            subscription.callbacks.filter(event=Callback.Event.TEST)
            .order_by("-pk")
            .prefetch_related(_newest_first())[:_LATEST_TESTS]
        )
        context = {"rendered": rendered, "mistakes": mistakes, "tests": tests}
        return self.row_response(request, subscription, "send_test", context)

    @object_view(_("Resume callbacks"))
    def resume(self, request: HttpRequest, subscription: Subscription) -> HttpResponse:
        if request.method == "POST":
            count = suspension.resume(subscription)
            text = ngettext(
                "Callbacks resumed. %(count)s paused callback is being sent.",
                "Callbacks resumed. %(count)s paused callbacks are being sent.",
                count,
            )
            return self.done(request, subscription, text % {"count": count})
        context = {"failing": [failure_context(self, request, subscription)]}
        return self.row_response(request, subscription, "resume", context)


def failure_context(
    model_admin: ObjectViewsMixin, request: HttpRequest, subscription: Subscription
) -> dict[str, Any]:
    """Return the last error of a failing subscription and the number of waiting callbacks."""
    may_resume = request.user.has_perm("affiliations.change_subscription")
    queued = subscription.callbacks.queued()
    latest = list(queued.order_by("-pk").values_list("pk", flat=True)[:LATEST])
    failures = CallbackAttempt.objects.filter(callback__in=latest).exclude(error="")
    return {
        "subscription": subscription,
        "last": may_view(request, Callback) and failures.order_by("-started_on").first(),
        "waiting": queued.count(),
        "most_failures": suspension.SUSPEND_AFTER_FAILURES,
        "most_hours": suspension.SUSPEND_AFTER // timedelta(hours=1),
        "resume_url": model_admin.link_url(subscription, "resume")
        if may_resume and (subscription.is_suspended or subscription.is_paused)
        else "",
    }


def latest_callbacks(
    model_admin: ObjectViewsMixin, request: HttpRequest, callbacks: models.QuerySet[Callback]
) -> list[Any] | None:
    """
    Return the latest callbacks for a template: each with its URL, status and last attempt.

    ``None`` if the user may not view callbacks.
    """
    if not may_view(request, Callback):
        return None
    latest = (
        callbacks.select_related("subscription", "conversion")
        .prefetch_related(_newest_first())
        .order_by("-pk")[:LATEST]
    )
    return [
        (
            callback,
            model_admin.link_url(callback),
            callback_badge(callback),
            next(iter(callback.attempts.all()), None),
        )
        for callback in latest
    ]


def _newest_first() -> Prefetch[Any]:
    return Prefetch("attempts", CallbackAttempt.objects.order_by("-number"))
