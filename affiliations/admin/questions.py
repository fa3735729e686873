"""What staff ask a report: which days, in which steps, of whom, and what to compare."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator
from django.utils.text import Truncator
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations.admin.filters import trigger_names
from affiliations.models import Partner
from affiliations.periods import FIRST, LAST, Period, Step, today
from affiliations.reports import By

if TYPE_CHECKING:
    from django.http import HttpRequest, QueryDict

#: The periods that are mostly meant, by their name in the address.
PRESETS = {
    "7": _("Past 7 days"),
    "30": _("Past 30 days"),
    "90": _("Past 90 days"),
    "month": _("This month"),
    "last-month": _("Last month"),
    "year": _("This year"),
}
_USUAL = "30"

#: A table has so many rows, and a chart so many bars: a leap year by day.
ROWS = 366
_DAYS = {Step.DAY: 1, Step.WEEK: 7, Step.MONTH: 31}
#: So many partners are offered by name, and so many are named as meant.
_OFFERED, _MEANT = 100, 3


@dataclass(frozen=True)
class Question:
    """What a report is to answer."""

    period: Period
    step: Step
    by: By | None
    partner: Partner | None
    trigger: str
    sub_id: tuple[By, str] | None

    @property
    def kept(self) -> dict[str, Any]:
        """Return of what only there are to be numbers, as ``reports.report`` takes it."""
        return {
            "partners": None if self.partner is None else [self.partner],
            "trigger": self.trigger or None,
            "sub_id": self.sub_id,
        }


class QuestionForm(forms.Form):
    """The filters above a report, as they stand in its address; what is left out is the usual."""

    period = forms.ChoiceField(choices=list(PRESETS.items()), required=False)
    since = forms.DateField(label=_("From"), widget=forms.DateInput({"type": "date"}, "%Y-%m-%d"))
    until = forms.DateField(label=_("To"), widget=forms.DateInput({"type": "date"}, "%Y-%m-%d"))
    step = forms.ChoiceField(label=_("Each row is a"), choices=Step.choices)
    by = forms.ChoiceField(
        label=_("Compare"), choices=[("", _("nothing")), *By.choices], required=False
    )
    partner = forms.CharField(
        label=_("Partner"),
        max_length=255,
        required=False,
        widget=forms.TextInput(
            {"list": "aff-partners", "autocomplete": "off", "placeholder": _("Name or uid")}
        ),
    )
    trigger = forms.ChoiceField(label=_("Trigger"), required=False)
    sub = forms.ChoiceField(
        label=_("Sub id"),
        choices=[("", _("all")), *(choice for choice in By.choices if By(choice[0]).is_sub_id)],
        required=False,
    )
    label = forms.CharField(label=_("Sub id is"), max_length=255, required=False)

    def __init__(self, asked: QueryDict) -> None:
        """Read what was asked; both days of a period that is named, and the usual of the rest."""
        data = {"step": Step.DAY.value, "by": By.PARTNER.value}
        data |= {name: str(asked[name]) for name in self.base_fields if name in asked}
        if not data.get("since") and not data.get("until"):
            data["period"] = data.get("period") or _USUAL
            if period := _preset(data["period"]):
                data |= {"since": period.first.isoformat(), "until": period.last.isoformat()}
        else:
            data.pop("period", None)
        super().__init__(data, auto_id="aff-%s", label_suffix="")
        #: The name of the period, where it is not one of days that were typed.
        self.preset = data.get("period")
        self.fields["trigger"].choices = [  # type: ignore[attr-defined] # a select
            ("", _("all")),
            *((name, Truncator(name).chars(60)) for name in trigger_names(data.get("trigger", ""))),
        ]

    @cached_property
    def partner_names(self) -> list[str]:
        """Return the first partners, for a browser to propose."""
        partners = Partner.objects.order_by("-active", "name", "pk")
        return list(partners.values_list("name", flat=True)[:_OFFERED])

    def clean_since(self) -> date:
        """Refuse a day that no time zone can reckon with."""
        return _reckonable(self.cleaned_data["since"])

    def clean_until(self) -> date:
        """Refuse a day that no time zone can reckon with."""
        return _reckonable(self.cleaned_data["until"])

    def clean_partner(self) -> Partner | None:
        """Find the one who is meant: by uid, by name or by a part of it that nobody else has."""
        term = self.cleaned_data["partner"]
        if not term:
            return None
        partners = Partner.objects.order_by("name", "pk")
        found = (
            list(partners.filter(uid=term)[:1])
            or list(partners.filter(name=term)[: _MEANT + 1])
            or list(partners.filter(name__icontains=term)[: _MEANT + 1])
        )
        if len(found) == 1:
            return found[0]
        if not found:
            raise forms.ValidationError(_("No partner has this uid, or this in the name."))
        names = ", ".join(f"{one.name} ({one.uid})" for one in found[:_MEANT])
        message = gettext("Several partners are meant. Write the uid of one: %(partners)s")
        more = ", …" if len(found) > _MEANT else ""
        raise forms.ValidationError(message % {"partners": names} + more)

    def clean(self) -> None:
        """Refuse what makes no report together with the rest."""
        found = self.cleaned_data
        since, until, step = found.get("since"), found.get("until"), found.get("step")
        if since and until and until < since:
            self.add_error("until", _("Choose a day that is not before the first."))
        elif since and until and step and (until - since).days // _DAYS[Step(step)] >= ROWS:
            message = _("These are too many rows. Choose weeks or months, or fewer days.")
            self.add_error("step" if step != Step.MONTH else "since", message)
        sub, label, by = found.get("sub"), found.get("label"), found.get("by")
        if label and not sub:
            self.add_error("sub", _("Choose which of the five it is."))
        elif sub and not label:
            self.add_error("label", _("Write the label that the partner uses, such as “summer”."))
        elif sub and by and By(by).is_sub_id and by != sub:
            message = _("There are numbers of one sub id at a time. Choose the same, or another.")
            self.add_error("by", message)

    @property
    def question(self) -> Question:
        """Return what was asked; only of a valid form."""
        found = self.cleaned_data
        return Question(
            period=Period(found["since"], found["until"]),
            step=Step(found["step"]),
            by=By(found["by"]) if found["by"] else None,
            partner=found["partner"],
            trigger=found["trigger"],
            sub_id=(By(found["sub"]), found["label"]) if found["sub"] else None,
        )


def query(request: HttpRequest, **changes: str | None) -> str:
    """Return the query of the same page with some changes; ``None`` takes a parameter out."""
    values = request.GET.copy()
    for name, value in changes.items():
        values.pop(name, None)
        if value is not None:
            values[name] = value
    return f"?{values.urlencode()}"


def _preset(name: str) -> Period | None:
    now = today()
    begins = now.replace(day=1)
    if name.isdigit() and name in PRESETS:
        return Period.past(int(name))
    return {
        "month": Period(begins, now),
        "last-month": Period(
            (begins - timedelta(days=1)).replace(day=1), begins - timedelta(days=1)
        ),
        "year": Period(now.replace(month=1, day=1), now),
    }.get(name)


def _reckonable(day: date) -> date:
    for validator in (MinValueValidator(FIRST), MaxValueValidator(LAST)):
        validator(day)
    return day
