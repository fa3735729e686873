"""How long a partner who fails is left alone."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from django.utils.http import http_date
from hypothesis import given
from hypothesis import strategies as st

from affiliations.callbacks import results
from affiliations.callbacks.transport import Result
from affiliations.models import CallbackAttempt

Error = CallbackAttempt.Error

FAILED = Result(duration_ms=7, error=Error.CONNECT, message="refused")


def busy(retry_after: str, status: int = 429) -> Result:
    return Result(1, status_code=status, error=Error.HTTP_STATUS, retry_after=retry_after)


class TestTheDelay:
    """A fifth more or less, so that not all come back at once."""

    @pytest.mark.parametrize(
        ("attempt", "seconds"),
        list(enumerate([5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400], start=1)),
    )
    def test_is_the_schedules_give_or_take_a_fifth(self, attempt: int, seconds: int) -> None:
        delays = [results.delay(attempt, FAILED).total_seconds() for _ in range(300)]
        assert seconds * 0.8 <= min(delays) < seconds * 0.9
        assert seconds * 1.1 < max(delays) <= seconds * 1.2

    def test_is_the_last_step_where_one_is_sent_by_hand_after_the_end(self) -> None:
        assert results.delay(15, FAILED).total_seconds() >= 86400 * 0.8

    @pytest.mark.parametrize("status", [429, 503])
    def test_is_what_the_partner_asks_for_in_seconds(self, status: int) -> None:
        assert results.delay(1, busy("3600", status)) == timedelta(hours=1)

    def test_is_what_the_partner_asks_for_as_a_date(self) -> None:
        asked = results.delay(1, busy(http_date(time.time() + 3600))).total_seconds()
        assert 3590 < asked <= 3600

    def test_heeds_a_date_in_a_site_without_time_zones(self, settings: Any) -> None:
        settings.USE_TZ = False
        asked = results.delay(1, busy(http_date(time.time() + 3600))).total_seconds()
        assert 3590 < asked <= 3600

    @pytest.mark.parametrize("form", ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y"])
    def test_heeds_a_date_in_the_forms_of_old(self, form: str) -> None:
        """RFC 9110, 5.6.7."""
        when = time.strftime(form, time.gmtime(time.time() + 3600))
        assert 3590 < results.delay(1, busy(when)).total_seconds() <= 3600

    @pytest.mark.parametrize(
        "value", ["1", "0", "", "-60", "soon", "1.5", "²", "Wed, 21 Oct 2015 07:28:00 GMT"]
    )
    def test_is_the_schedules_where_that_is_later_or_what_is_asked_for_is_nonsense(
        self, value: str
    ) -> None:
        assert 4 <= results.delay(1, busy(value)).total_seconds() <= 6

    @pytest.mark.parametrize(
        "value", ["86401", "9" * 30, "Fri, 31 Dec 9999 23:59:59 GMT", "000000000999999999"]
    )
    def test_is_never_longer_than_a_day_because_a_partner_asks(self, value: str) -> None:
        assert results.delay(1, busy(value)) == timedelta(hours=24)

    @pytest.mark.parametrize("status", [200, 302, 404, 500])
    def test_does_not_heed_what_another_answer_asks_for(self, status: int) -> None:
        assert results.delay(1, busy("3600", status)).total_seconds() <= 6

    @given(st.text() | st.from_regex(r"\w{3}, \d{2} \w{3} \d{4} \d{2}:\d{2}:\d{2} GMT"))
    def test_survives_whatever_a_partner_sends(self, value: str) -> None:
        assert timedelta(0) < results.delay(1, busy(value)) <= timedelta(hours=24)
