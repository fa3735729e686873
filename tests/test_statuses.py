"""The tables by status: a new status that one of them lacks fails here, and not on a page."""

from __future__ import annotations

from dataclasses import fields

from affiliations.admin.base import TONES
from affiliations.conversions.decisions import TRANSITIONS
from affiliations.models import Callback, Conversion
from affiliations.reports.numbers import Numbers
from affiliations.timeline import conversions, entries


def test_each_status_has_a_colour() -> None:
    assert TONES.keys() == {*Conversion.Status.values, *Callback.Status.values, "paused"}


def test_each_status_of_a_conversion_can_change_and_is_in_the_timeline() -> None:
    assert TRANSITIONS.keys() == conversions._DECISIONS.keys() == set(Conversion.Status)


def test_each_status_of_a_callback_is_in_the_timeline() -> None:
    assert entries._CALLBACK_STATUSES.keys() == set(Callback.Status)


def test_reports_count_each_status() -> None:
    assert {field.name for field in fields(Numbers)} >= set(Conversion.Status.values)
