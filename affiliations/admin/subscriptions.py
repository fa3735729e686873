"""Subscriptions: what a partner is told and paid, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.db import models
from django.db.models import Count, Prefetch
from django.utils.text import Truncator
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from affiliations.admin.callback_urls import CallbackURLFields, PreviewMixin, preview
from affiliations.admin.filters import PartnerFilter, TriggerFilter
from affiliations.admin.lists import ListAdmin, badge, short
from affiliations.admin.pages import TONES, RowPagesMixin, may_view, row_page
from affiliations.conf import settings
from affiliations.exceptions import InvalidCallBackURL
from affiliations.models import Callback, CallbackAttempt, Partner, Subscription

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

#: So many callbacks are shown on a page that is not about callbacks.
LATEST = 10
_TESTS = 3
#: So much of a callback URL is shown in a list.
_URL = 70

#: A subscription's fields, in rows: when it counts, what it pays, who decides, who is called.
_SUBSCRIPTION = (
    "trigger",
    "callback_url",
    "active",
    ("counting", "closes_referral"),
    ("payout_type", "payout_value", "payout_currency"),
    ("approval", "approve_after"),
    ("call_on_conversion", "call_on_approval", "call_on_rejection"),
)


def _shown(trigger: str) -> str:
    """Return the name of a trigger, marked where it can never fire."""
    if trigger in settings.counting_triggers:
        return trigger
    return gettext("%(name)s (no longer in the settings)") % {"name": trigger}


def warn(request: HttpRequest, partner: Partner) -> None:
    """Say which of a partner's subscriptions keep others from ever being counted."""
    if closing := partner.subscriptions.closing_too_early():
        names = ", ".join(f"“{trigger}”" for trigger in closing)
        warning = gettext(
            "%(partner)s: after %(triggers)s nothing more of the same visitor is counted. To have "
            "what comes later counted too, untick “closes the referral” there."
        )
        messages.warning(request, warning % {"partner": partner, "triggers": names})


class SubscriptionForm(forms.ModelForm):
    """A subscription, with the triggers of the settings to choose from."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if (value := self.initial.get("payout_value")) is not None:
            self.initial["payout_value"] = f"{value.normalize():f}"
        if "trigger" in self.fields:  # not where somebody may only look
            names = list(settings.counting_triggers)
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


class SubscriptionInline(CallbackURLFields, admin.StackedInline):
    """The subscriptions on the page of their partner."""

    model = Subscription
    form = SubscriptionForm
    formset = SubscriptionFormSet
    fields = _SUBSCRIPTION
    extra = 0
    show_change_link = True


@admin.register(Subscription)
class SubscriptionAdmin(PreviewMixin, CallbackURLFields, RowPagesMixin, ListAdmin):
    """Subscriptions of all partners."""

    form = SubscriptionForm
    list_display = ["trigger_name", "who", "url", "active", "callbacks"]
    list_filter = ["active", TriggerFilter, PartnerFilter]
    list_select_related = ["partner"]
    search_fields = ["trigger", "callback_url", "partner__name"]
    ordering = ["partner__name", "trigger"]
    row_pages = ["send_test", "resume"]

    def get_readonly_fields(self, request: HttpRequest, obj: Subscription | None = None) -> Any:
        """Let a subscription stay with its partner, as what it has counted does."""
        return [self._whose(request, obj)] if obj else []

    def get_fields(self, request: HttpRequest, obj: Subscription | None = None) -> Any:
        """Lead to the partner those who may look at partners."""
        return (self._whose(request, obj), *_SUBSCRIPTION)

    def _whose(self, request: HttpRequest, obj: Subscription | None) -> str:
        return "partner" if obj is None or may_view(request, Partner) else "who"

    def save_model(
        self, request: HttpRequest, obj: Subscription, form: forms.ModelForm, change: bool
    ) -> None:
        """Save, and warn where the partner's subscriptions can never all be counted."""
        super().save_model(request, obj, form, change)
        warn(request, obj.partner)

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

    def offers(self, name: str, row: Subscription) -> bool:
        """Offer a test where there is somebody to call, and to resume what is suspended."""
        if name == "resume":
            return row.callbacks_suspended_on is not None
        return bool(row.callback_url)

    def get_panels(self, request: HttpRequest, row: Subscription) -> dict[str, Any]:
        """Show why callbacks are suspended, and the last ones."""
        return {
            "suspended": [why_suspended(self, request, row)] if row.callbacks_suspended_on else [],
            "latest": latest_callbacks(self, request, row.callbacks.all()),
        }

    @admin.display(description=_("trigger"), ordering="trigger")
    def trigger_name(self, subscription: Subscription) -> str:
        """Return the trigger, marked where the settings do not have it."""
        return _shown(subscription.trigger)

    @admin.display(description=_("partner"), ordering="partner__name")
    def who(self, subscription: Subscription) -> str:
        """Return the partner, as far as there is room."""
        return short(subscription.partner)

    @admin.display(description=_("callback URL"), ordering="callback_url")
    def url(self, subscription: Subscription) -> str:
        """Return the URL as text: a click would call the partner, with the placeholders in it."""
        return Truncator(subscription.callback_url).chars(_URL)

    @admin.display(description=_("callbacks"))
    def callbacks(self, subscription: Subscription) -> str:
        """Return whether the partner is called."""
        if subscription.callbacks_suspended_on is not None:
            return badge("rejected", gettext("suspended"))
        if subscription.failure_count:
            text = ngettext("%(count)s failure", "%(count)s failures", subscription.failure_count)
            return badge("pending", text % {"count": subscription.failure_count})
        return badge("delivered", gettext("well")) if subscription.callback_url else "-"

    @row_page(_("Send a test callback"))
    def send_test(self, request: HttpRequest, subscription: Subscription) -> HttpResponse:
        """Send sample values now, and show what was sent and what came back."""
        # Here, since what it is sent with takes a fraction of a second to import, in each process.
        from affiliations.callbacks import sample

        uid = subscription.partner.uid
        rendered, mistakes = preview(subscription.callback_url, subscription.trigger, uid)
        if not subscription.callback_url:
            mistakes = [gettext("This subscription has no callback URL, so nobody is called.")]
        if request.method == "POST" and not mistakes:
            try:
                sample.send_test_callback(subscription)
            except InvalidCallBackURL as error:  # changed by somebody else in the meantime
                mistakes = error.messages
            else:
                text = gettext("A test callback was sent.")
                return self.done(request, subscription, text, "send_test")
        tests = (
            Callback.objects.filter(subscription=subscription, event=Callback.Event.TEST)
            .order_by("-pk")
            .prefetch_related("attempts")[:_TESTS]
        )
        context = {"rendered": rendered, "mistakes": mistakes, "tests": tests}
        return self.row_response(request, subscription, "send_test", context)

    @row_page(_("Resume callbacks"))
    def resume(self, request: HttpRequest, subscription: Subscription) -> HttpResponse:
        """Let what is held go out again."""
        if request.method == "POST":
            from affiliations.callbacks import suspension

            count = suspension.resume(subscription)
            text = ngettext(
                "Callbacks are resumed. %(count)s was held, and goes out now.",
                "Callbacks are resumed. %(count)s were held, and go out now.",
                count,
            )
            return self.done(request, subscription, text % {"count": count})
        return self.row_response(
            request,
            subscription,
            "resume",
            {"suspended": [why_suspended(self, request, subscription)]},
        )


def why_suspended(
    model_admin: RowPagesMixin, request: HttpRequest, subscription: Subscription
) -> dict[str, Any]:
    """Return why callbacks of a subscription are suspended, and what is held."""
    may_resume = request.user.has_perm("affiliations.change_subscription")
    held = subscription.callbacks.filter(status=Callback.Status.HELD)
    some = list(held.order_by("-pk").values_list("pk", flat=True)[:LATEST])
    failed = CallbackAttempt.objects.filter(callback__in=some).exclude(error="")
    return {
        "subscription": subscription,
        "last": may_view(request, Callback) and failed.order_by("-started_on").first(),
        "held": held.aggregate(count=Count("pk"))["count"],
        "resume_url": model_admin.link_url(subscription, "resume") if may_resume else "",
    }


def latest_callbacks(
    model_admin: RowPagesMixin, request: HttpRequest, callbacks: models.QuerySet[Callback]
) -> list[Any] | None:
    """
    Return the last callbacks for a template: each with its address, its tone and its attempt.

    ``None`` for those who may not look at callbacks.
    """
    if not may_view(request, Callback):
        return None
    latest = (
        callbacks.select_related("subscription", "conversion")
        .prefetch_related(Prefetch("attempts", CallbackAttempt.objects.order_by("number")))
        .order_by("-pk")[:LATEST]
    )
    return [
        (
            one,
            model_admin.link_url(one),
            TONES[one.status],
            next(reversed(one.attempts.all()), None),
        )
        for one in latest
    ]
