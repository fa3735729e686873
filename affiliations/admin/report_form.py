"""The filters of the report: period, interval, grouping and limits."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator
from django.utils.text import Truncator
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations.admin.filters import DEFAULT_PRESET, trigger_names
from affiliations.dates import FIRST, LAST, PRESETS, Interval, Period
from affiliations.models import Partner
from affiliations.reports.numbers import Arrivals, Dimension
from affiliations.reports.queries import arrivals, arrivals_by_partner

if TYPE_CHECKING:
    from django.http import QueryDict

#: The maximum of rows of a table and of bars of a chart: a leap year by day.
ROWS = 366
_DAYS = {Interval.DAY: 1, Interval.WEEK: 7, Interval.MONTH: 31}
#: The number of partners that an error message names.
_NAMED = 3


class DayField(forms.DateField):
    """A day that can be converted between time zones."""

    default_validators = [MinValueValidator(FIRST), MaxValueValidator(LAST)]
    widget = forms.DateInput({"type": "date"}, "%Y-%m-%d")


class PeriodForm(forms.Form):
    """Asks for the first and the last day of a period."""

    since = DayField(label=_("From"))
    until = DayField(label=_("To"))

    def clean(self) -> None:
        since, until = self.cleaned_data.get("since"), self.cleaned_data.get("until")
        if since and until and until < since:
            self.add_error("until", _("Choose an end date that is not before the start date."))

    @property
    def chosen_period(self) -> Period:
        return Period(self.cleaned_data["since"], self.cleaned_data["until"])


class ReportForm(PeriodForm):
    """The filters of the report, with defaults for those that the query string leaves out."""

    period = forms.ChoiceField(choices=list(PRESETS.items()), required=False)
    interval = forms.ChoiceField(label=_("Interval"), choices=Interval.choices)
    dimension = forms.ChoiceField(
        label=_("Group by"), choices=[("", _("none")), *Dimension.choices], required=False
    )
    partner = forms.CharField(
        label=_("Partner"),
        max_length=255,
        required=False,
        widget=forms.TextInput(
            {"list": "aff-partners", "autocomplete": "off", "placeholder": _("Name or uid")}
        ),
    )
    group = forms.ChoiceField(label=_("Group"), required=False)
    trigger = forms.ChoiceField(label=_("Trigger"), required=False)
    sub = forms.ChoiceField(
        label=_("Sub id"),
        choices=[
            ("", _("all")),
            *(choice for choice in Dimension.choices if Dimension(choice[0]).is_sub_id),
        ],
        required=False,
    )
    label = forms.CharField(label=_("Sub id value"), max_length=255, required=False)
    compare = forms.BooleanField(label=_("Compare with the period before"), required=False)

    def __init__(self, query: QueryDict) -> None:
        data = {"interval": Interval.DAY.value, "dimension": Dimension.PARTNER.value}
        data |= {name: str(query[name]) for name in self.base_fields if name in query}
        if not data.get("since") and not data.get("until"):
            data["period"] = data.get("period") or DEFAULT_PRESET
            if period := Period.preset(data["period"]):
                data |= {"since": period.first.isoformat(), "until": period.last.isoformat()}
        else:
            data.pop("period", None)
        super().__init__(data, auto_id="aff-%s", label_suffix="")
        #: The name of the period; ``None`` if its days were entered.
        self.preset = data.get("period")
        groups = dict.fromkeys([*Partner.objects.groups(), *filter(None, [data.get("group")])])
        self.fields["group"].choices = [  # type: ignore[attr-defined] # a select
            ("", _("all")),
            *((name, Truncator(name).chars(60)) for name in groups),
        ]
        self.fields["trigger"].choices = [  # type: ignore[attr-defined] # a select
            ("", _("all")),
            *((name, Truncator(name).chars(60)) for name in trigger_names(data.get("trigger", ""))),
        ]

    def partner_names(self) -> list[str]:
        return Partner.objects.suggested_names()

    def clean_group(self) -> str:
        group: str = self.cleaned_data["group"]
        if "\0" in group:
            raise forms.ValidationError(_("No partner is in this group."))
        return group

    def clean_partner(self) -> Partner | None:
        """Find the partner by the uid, the name, or a part of the name that matches no other."""
        term = self.cleaned_data["partner"]
        if not term:
            return None
        found = Partner.objects.matching(term, _NAMED + 1)
        if len(found) == 1:
            return found[0]
        if not found:
            raise forms.ValidationError(_("No partner found. Enter the uid or a part of the name."))
        names = ", ".join(f"{partner.name} ({partner.uid})" for partner in found[:_NAMED])
        message = gettext("Several partners match. Enter the uid of one of them: %(partners)s")
        more = ", …" if len(found) > _NAMED else ""
        raise forms.ValidationError(message % {"partners": names} + more)

    def clean(self) -> None:
        super().clean()
        data = self.cleaned_data
        since, until, interval = data.get("since"), data.get("until"), data.get("interval")
        if since and until and interval and (until - since).days // _DAYS[interval] >= ROWS:
            message = _(
                "The report would have too many rows. Choose a longer interval or a shorter period."
            )
            self.add_error("interval" if interval != Interval.MONTH else "since", message)
        sub, label, dimension = data.get("sub"), data.get("label"), data.get("dimension")
        if label and not sub:
            self.add_error("sub", _("Choose the sub id that has this value."))
        elif sub and not label:
            self.add_error("label", _("Enter a value of the sub id, such as “summer”."))
        elif sub and dimension and Dimension(dimension).is_of_visitor and dimension != sub:
            message = _(
                "A report can use only one sub id. Group by the same sub id, or by something else."
            )
            if dimension == Dimension.SOURCE:
                message = _("Clear the sub id to group by source, or group by something else.")
            self.add_error("dimension", message)

    @property
    def chosen_period(self) -> Period:
        """The period, once the form is valid; a preset knows which period was before it."""
        since, until = self.cleaned_data["since"], self.cleaned_data["until"]
        return Period.preset(self.preset or "") or Period(since, until)

    @property
    def partners(self) -> Any:
        """The partners to which the report is limited; ``None`` for all."""
        partner, group = self.cleaned_data["partner"], self.cleaned_data["group"]
        if partner is not None:
            return [partner] if not group or partner.group == group else []
        return Partner.objects.filter(group=group).order_by() if group else None

    @property
    def query(self) -> dict[str, Any]:
        """The arguments of ``reports.report``, once the form is valid."""
        data = self.cleaned_data
        return {
            "period": self.chosen_period,
            "interval": Interval(data["interval"]),
            "dimension": Dimension(data["dimension"]) if data["dimension"] else None,
            "partners": self.partners,
            "trigger": data["trigger"] or None,
            "sub_id": (Dimension(data["sub"]), data["label"]) if data["sub"] else None,
        }

    @property
    def is_by_partner(self) -> bool:
        """Whether the report is grouped by partner and not limited to one partner."""
        data = self.cleaned_data
        return data["dimension"] == Dimension.PARTNER and data["partner"] is None

    @cached_property
    def arrivals(self) -> Arrivals:
        if self.is_by_partner:
            return sum(self.arrivals_by_partner.values(), Arrivals())
        return arrivals(self.query["period"], self.cleaned_data["partner"])

    @cached_property
    def arrivals_by_partner(self) -> dict[int | None, Arrivals]:
        found = arrivals_by_partner(self.query["period"])
        partner = self.cleaned_data["partner"]
        return found if partner is None else {key: found[key] for key in found if key == partner.pk}
