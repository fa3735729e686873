"""The forms of payout statements: which balances, the reference, and the payment."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib.admin.widgets import AdminTextInputWidget
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations.admin.report_form import DayField
from affiliations.conversions.unpaid import Balance, CutOff
from affiliations.dates import FIRST, LAST, midnight, today
from affiliations.models import Partner, Settlement
from affiliations.models.settlement import REFERENCE_PLACEHOLDERS, validate_payment_day

_BRACES = re.compile(r"\{[^{}]*\}|[{}]")
#: The value of a tick box: the partner's key, the currency, and the balance that was shown.
_CHOSEN = re.compile(
    r"([0-9]{1,18}):([^:\0]{1,3}):([0-9]{1,9}):(-?[0-9]{1,21}(?:\.[0-9]{1,4})?)"
    r":([0-9]{1,9}):(-?[0-9]{1,21}(?:\.[0-9]{1,4})?)"
)


def chosen_balances(values: Iterable[str]) -> dict[tuple[int, str], Balance]:
    """Return the balances of tick boxes, as they were shown."""
    found = [match.groups() for match in map(_CHOSEN.fullmatch, values) if match]
    return {
        (int(key), currency): Balance(int(count), Decimal(earned), int(changes), Decimal(adjusted))
        for key, currency, count, earned, changes, adjusted in found
    }


#: As the columns of sums of money.
_SUM: dict[str, Any] = {"max_digits": 25, "decimal_places": 4}


class CutOffForm(forms.Form):
    @property
    def chosen_cut_off(self) -> CutOff:
        return CutOff(self.cleaned_data["cut_off"] or CutOff.APPROVED)


class BalancesForm(CutOffForm):
    """The balances to show: all, those of a partner, or the one of a partner and currency."""

    partner = forms.ModelChoiceField(Partner.objects, required=False, widget=forms.HiddenInput)
    currency = forms.CharField(max_length=3, required=False, widget=forms.HiddenInput)
    cut_off = forms.ChoiceField(label=_("cut-off"), choices=CutOff.choices, required=False)
    until = DayField(
        label=_("day (included)"),
        required=False,
        help_text=_("Leave empty to include everything until now."),
    )

    @property
    def before(self) -> datetime:
        """When the day ends in the site's time zone; without a day, now."""
        day: date | None = self.cleaned_data["until"]
        return timezone.now() if day is None else midnight(day + timedelta(days=1))


class StatementsForm(CutOffForm):
    """The reference of statements, and the cut-off of the balances that were shown."""

    reference = forms.CharField(
        label=_("reference"),
        max_length=255,
        required=False,
        widget=AdminTextInputWidget,
        help_text=_(
            "Your own number for the statement, such as an invoice number. {year}, {month} and "
            "{number} are filled in; the number runs through the year."
        ),
    )
    until = forms.CharField(widget=forms.HiddenInput)
    cut_off = forms.ChoiceField(choices=CutOff.choices, required=False, widget=forms.HiddenInput)

    def clean_reference(self) -> str:
        reference: str = self.cleaned_data["reference"]
        for found in _BRACES.findall(reference):
            if found not in REFERENCE_PLACEHOLDERS:
                text = gettext(
                    "“%(found)s” is not a placeholder. Use {year}, {month} and {number}, or no "
                    "braces."
                )
                raise forms.ValidationError(text % {"found": found})
        return reference

    def clean_until(self) -> datetime:
        try:
            moment = parse_datetime(self.cleaned_data["until"])
        except ValueError:
            moment = None
        is_valid = (
            moment is not None
            and timezone.is_aware(moment) == timezone.is_aware(timezone.now())
            and FIRST <= moment.date() <= LAST
        )
        if moment is None or not is_valid:
            raise forms.ValidationError(gettext("Enter a valid date/time."))
        return moment


class SettleForm(StatementsForm):
    """The form of one statement, with the balance that was shown."""

    conversion_count = forms.IntegerField(widget=forms.HiddenInput)
    earned = forms.DecimalField(widget=forms.HiddenInput, **_SUM)
    adjustment_count = forms.IntegerField(widget=forms.HiddenInput)
    adjusted = forms.DecimalField(widget=forms.HiddenInput, **_SUM)

    @property
    def shown(self) -> Balance:
        return Balance(**{field.name: self.cleaned_data[field.name] for field in fields(Balance)})


class PaymentForm(forms.Form):
    """When chosen statements were paid, and with which payment."""

    paid_on = forms.DateField(
        label=_("paid on"),
        initial=today,
        input_formats=["%Y-%m-%d"],
        validators=[validate_payment_day],
        widget=forms.DateInput({"type": "date"}, "%Y-%m-%d"),
    )
    payment_reference = forms.CharField(
        label=_("payment reference"),
        max_length=255,
        required=False,
        widget=AdminTextInputWidget,
        help_text=Settlement._meta.get_field("payment_reference").help_text,
    )
