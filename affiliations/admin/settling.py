"""What is asked before something is settled."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import forms
from django.contrib.admin.widgets import AdminTextInputWidget
from django.core.validators import MaxValueValidator, MinValueValidator
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations.models import Partner, Settlement
from affiliations.periods import FIRST, LAST
from affiliations.settlements import Balance

#: As the columns of sums of money.
_SUM: dict[str, Any] = {"max_digits": 25, "decimal_places": 4}


class WhatForm(forms.Form):
    """What is to be settled: everything, or what is of one partner, or of one currency too."""

    partner = forms.ModelChoiceField(Partner.objects, required=False, widget=forms.HiddenInput)
    currency = forms.CharField(max_length=3, required=False, widget=forms.HiddenInput)
    before = forms.DateField(
        label=_("decided before"),
        required=False,
        input_formats=["%Y-%m-%d"],
        validators=[MinValueValidator(FIRST), MaxValueValidator(LAST)],
        widget=forms.DateInput({"type": "date"}, "%Y-%m-%d"),
        help_text=_(
            "What was approved on an earlier day than this one. Empty: everything until now."
        ),
    )


class SettleForm(forms.Form):
    """The reference of a settlement; and what was shown, so that nothing else is settled."""

    reference = forms.CharField(
        label=_("reference"),
        max_length=255,
        required=False,
        widget=AdminTextInputWidget,
        help_text=Settlement._meta.get_field("reference").help_text,
    )
    until = forms.CharField(widget=forms.HiddenInput)
    conversion_count = forms.IntegerField(widget=forms.HiddenInput)
    earned = forms.DecimalField(widget=forms.HiddenInput, **_SUM)
    correction_count = forms.IntegerField(widget=forms.HiddenInput)
    corrected = forms.DecimalField(widget=forms.HiddenInput, **_SUM)

    def clean_until(self) -> datetime:
        """Return the moment until which it was shown."""
        try:
            moment = parse_datetime(self.cleaned_data["until"])
        except ValueError:
            moment = None
        is_ours = (
            moment is not None
            and timezone.is_aware(moment) == timezone.is_aware(timezone.now())
            and FIRST <= moment.date() <= LAST
        )
        if moment is None or not is_ours:
            raise forms.ValidationError(gettext("Enter a valid date/time."))
        return moment

    @property
    def shown(self) -> Balance:
        """What somebody has looked at before they said yes."""
        names = ("conversion_count", "earned", "correction_count", "corrected")
        return Balance(**{name: self.cleaned_data[name] for name in names})
