"""The table of reasons: a new one is written there, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client

from affiliations import timeline
from affiliations.exceptions import NotCredited, Reason
from affiliations.models import (
    CallbackAttempt,
    Conversion,
    FilteredClicks,
    UncreditedTrigger,
    Visitor,
)
from affiliations.models.clicks import Report
from affiliations.models.delivery_errors import cure_for
from affiliations.tracking.clicks import Click
from affiliations.triggers import complete_trigger
from tests.arrivals import commit, referred
from tests.factories import ConversionFactory, PartnerFactory
from tests.test_admin import shown, url

CODE, LABEL = "full_moon", "nothing is counted at full moon"


@pytest.fixture
def full_moon() -> Iterator[Reason]:
    """Add a reason to the table, as a new line in ``affiliations.exceptions`` does."""
    reason: Any = str.__new__(Reason, CODE)
    reason._name_, reason._value_, reason._label_ = "FULL_MOON", CODE, LABEL
    members: Any = Reason
    members._member_names_.append("FULL_MOON")
    members._member_map_["FULL_MOON"] = members._value2member_map_[CODE] = reason
    yield reason
    members._member_names_.remove("FULL_MOON")
    del members._member_map_["FULL_MOON"], members._value2member_map_[CODE]


@pytest.mark.parametrize("field", ["review_reason", "reason"])
def test_each_code_fits_in_the_columns(field: str) -> None:
    for model in (Conversion,) if field == "review_reason" else (FilteredClicks, UncreditedTrigger):
        longest = model._meta.get_field(field).max_length
        assert longest is not None
        assert max(len(code) for code in Reason.values) <= longest


@pytest.mark.parametrize("reason", Reason)
def test_each_has_a_cure_that_is_a_sentence(reason: Reason) -> None:
    assert str(reason.cure).endswith(".")
    assert Reason.cure_of(reason.value) == reason.cure
    assert Reason.cure_of("of another version") == ""


@pytest.mark.parametrize("error", CallbackAttempt.Error)
def test_each_error_of_a_callback_has_advice_and_a_cure(error: CallbackAttempt.Error) -> None:
    assert str(error.advice).endswith(".")
    is_ours = error in (error.BLOCKED_ADDRESS, error.CONFIGURATION)
    assert (f"“{error.advice}”" in error.cure) is not is_ours
    assert cure_for("of another version", None) == ""


@pytest.mark.django_db
class TestANewReason:
    def test_is_one_of_the_choices(self, full_moon: Reason) -> None:
        assert Reason(CODE) is full_moon
        assert (CODE, LABEL) in Reason.choices

    def test_of_a_click_is_on_the_pages_of_the_partner_and_of_the_report(
        self, full_moon: Reason, staff: Client, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Click, "filter_reason", lambda self: full_moon)
        partner = PartnerFactory()
        assert client.get(partner.link("/")).status_code == 302
        commit()

        FilteredClicks.objects.get(reason=CODE).full_clean()
        for page in (url(partner, "callbacks"), url(Report)):
            assert f"{LABEL} 1" in shown(staff.get(page)).lower()

    def test_of_a_trigger_is_on_the_pages_of_partner_and_visitor_and_in_the_command(
        self, full_moon: Reason, staff: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        visitor = referred()
        monkeypatch.setattr(Visitor, "refusal", lambda self, now: full_moon)
        assert complete_trigger(None, "Order placed", visitor=visitor, reference="17") is None
        commit()

        UncreditedTrigger.objects.get(reason=CODE).full_clean()
        partner_page = url(visitor.partner, "callbacks")
        for page in (partner_page, url(visitor), url(visitor, "credit")):
            assert LABEL in shown(staff.get(page)).lower()
        out = StringIO()
        call_command("explain_affiliation", visitor=visitor.pk, stdout=out)
        assert f"was not credited: {LABEL}." in out.getvalue()

    def test_is_an_error_of_the_form_that_credits_by_hand(
        self, full_moon: Reason, staff: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*args: object, **kwargs: object) -> None:
            raise NotCredited(full_moon)

        monkeypatch.setattr("affiliations.conversions.recording.record", refuse)
        visitor = referred()
        form = {"trigger": "Order placed", "reference": "17", "reason": "The link was broken."}
        assert LABEL in shown(staff.post(url(visitor, "credit"), form)).lower()

    def test_for_a_review_is_in_the_timeline(self, full_moon: Reason) -> None:
        conversion = ConversionFactory(status="pending", review_reason=CODE)
        [history] = timeline.build([conversion.visitor_id])
        assert f"Only staff can approve it: {LABEL}." in " ".join(
            entry.text for entry in history.entries
        )
