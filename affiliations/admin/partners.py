"""Partners: how they are doing, and what they subscribe to."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.utils import timezone
from django.utils.formats import date_format, number_format
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations import charts, figures, reports
from affiliations.admin.credits import CreditPage
from affiliations.admin.deals import DealPages
from affiliations.admin.filters import RECENT_DAYS, PeriodFilter
from affiliations.admin.lists import ListAdmin, short
from affiliations.admin.page_links import PageLinkPage
from affiliations.admin.pages import may_view
from affiliations.admin.settlements import SettlePage
from affiliations.admin.subscriptions import (
    SubscriptionInline,
    latest_callbacks,
    warn,
    why_suspended,
)
from affiliations.amounts import by_currency
from affiliations.callbacks.health import health
from affiliations.exceptions import Reason
from affiliations.models import Partner, UncountedTrigger, Visitor
from affiliations.periods import Period, Step, midnight

if TYPE_CHECKING:
    from django.contrib.admin.views.main import ChangeList
    from django.http import HttpRequest

_UNCOUNTED = 10


class DaysField(forms.DurationField):
    """A length of time, typed as a number of days."""

    widget = forms.NumberInput

    def prepare_value(self, value: Any) -> Any:
        """Show a duration as its days."""
        return f"{value / timedelta(days=1):g}" if isinstance(value, timedelta) else value

    def to_python(self, value: Any) -> timedelta | None:
        """Read whole days, up to ten years of them."""
        days = forms.IntegerField(required=False, min_value=1, max_value=3650).clean(value)
        return None if days is None else timedelta(days=days)


class AccountsField(forms.ModelMultipleChoiceField):
    """Users, typed as their keys."""

    def clean(self, value: Any) -> Any:
        """Refuse, too, a number that SQLite cannot even look for."""
        try:
            return super().clean(value)
        except OverflowError as error:
            message, params = self.error_messages["invalid_pk_value"], {"pk": ", ".join(value)}
            raise forms.ValidationError(message, "invalid_pk_value", params) from error


class PartnerForm(forms.ModelForm):
    """A partner, with the attribution window in days."""

    class Meta:
        field_classes = {"window": DaysField, "users": AccountsField}
        labels = {"window": _("Attribution window in days")}


@admin.register(Partner)
class PartnerAdmin(DealPages, PageLinkPage, SettlePage, CreditPage, ListAdmin):
    """Partners, with the link to hand over and what they subscribe to."""

    form = PartnerForm
    list_display = ["short_name", "active", "last_click", "clicks", "conversions", "rate", "payout",
                    "per_click", "uid"]  # fmt: skip
    list_editable = ["active"]
    list_filter = ["active", PeriodFilter]
    search_fields = ["name", "uid"]
    search_help_text = _("A part of the name, or the uid.")
    ordering = ["name"]
    readonly_fields = ["uid", "created_on"]
    fieldsets = [(None, {"fields": ["name", "active", "window", "users", "uid", "created_on"]})]
    # Not a list to choose from: that would be all users, or need the Admin of a host's own model.
    raw_id_fields = ["users"]
    inlines = [SubscriptionInline]
    row_pages = ["try_deal", "settle", "credit", "secret", "page_link",
                 "stop_for_fraud"]  # fmt: skip

    class Media:
        css = {"all": ["affiliations/charts.css"]}

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        """Find the numbers of all partners on the page at once."""
        changelist = super().get_changelist_instance(request)
        (chosen,) = (spec for spec in changelist.filter_specs if isinstance(spec, PeriodFilter))
        numbers = reports.by_partner(list(changelist.result_list), chosen.period)
        for partner in changelist.result_list:
            partner.numbers = numbers[partner.pk]
        return changelist

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> Any:
        """Give the switches of the list a name, for those who do not see the head of the column."""
        switch = forms.CheckboxInput(attrs={"aria-label": gettext("active")})
        return super().get_changelist_form(request, widgets={"active": switch}, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Partner | None = None) -> Any:
        """Leave out, while a partner is new, what only a saved one has."""
        if obj:
            return self.fieldsets
        return [(None, {"fields": ["name", "active", "window", "users"]})]

    def save_related(
        self, request: HttpRequest, form: forms.ModelForm, formsets: Any, change: bool
    ) -> None:
        """Save the subscriptions, and warn where they can never all be counted."""
        super().save_related(request, form, formsets, change)
        warn(request, form.instance)

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

    @admin.display(description=_("name"), ordering="name")
    def short_name(self, partner: Partner) -> str:
        """Return the name, as far as there is room."""
        return short(partner)

    @admin.display(description=_("last click"))
    def last_click(self, partner: Any) -> Any:
        """Return on what day somebody last came through their link."""
        last = partner.numbers.last_click
        if last is None:
            return None
        local = timezone.localtime(last) if timezone.is_aware(last) else last
        return date_format(local, "SHORT_DATE_FORMAT")

    @admin.display(description=_("clicks"))
    def clicks(self, partner: Any) -> str:
        """Return how many were counted in the period."""
        return number_format(partner.numbers.clicks)

    @admin.display(description=_("conversions"))
    def conversions(self, partner: Any) -> str:
        """Return how many there were, without the rejected ones."""
        return number_format(partner.numbers.conversions)

    @admin.display(description=_("CR"))
    def rate(self, partner: Any) -> str:
        """Return the conversions for each click."""
        return figures.percentage(partner.numbers.rate)

    @admin.display(description=_("approved payout"))
    def payout(self, partner: Any) -> str:
        """Return what the approved ones earn, by currency."""
        return by_currency(partner.numbers.payouts)

    @admin.display(description=_("EPC"))
    def per_click(self, partner: Any) -> str:
        """Return the approved payout for each click, by currency."""
        return by_currency(partner.numbers.per_click)

    def get_panels(self, request: HttpRequest, row: Partner) -> dict[str, Any]:
        """Show the link, how the partner is told, and what arrived and was not counted."""
        labels = dict(Reason.choices)
        recent = Period.past(RECENT_DAYS)
        numbers = reports.report(recent, step=Step.DAY, partners=[row])
        sees = may_view(request, Visitor)
        suspended = row.subscriptions.exclude(callbacks_suspended_on=None).order_by("pk")
        return super().get_panels(request, row) | {
            "figures": figures.named(numbers.total),
            "charts": [] if numbers.is_empty else charts.over_time(Step.DAY, numbers),
            "days": [(day, figures.named(of_day)) for (day, _none), of_day in numbers.rows.items()],
            "health": health(partner=row),
            "latest": latest_callbacks(self, request, row.callbacks.all()),
            "suspended": [why_suspended(self, request, one) for one in suspended],
            "uncounted_clicks": [
                (labels.get(reason, reason), count)
                for reason, count in reports.uncounted(recent, row)
            ],
            "uncounted_triggers": [
                (
                    one,
                    labels.get(one.reason, one.reason),
                    self.link_url(one.visitor) if sees else "",
                )
                for one in UncountedTrigger.objects.of(row, midnight(recent.first), _UNCOUNTED)
            ],
        }
