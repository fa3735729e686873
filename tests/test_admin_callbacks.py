"""Callbacks: what partners were told, and telling them again."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from affiliations.callbacks import outbox
from affiliations.models import Callback, CallbackAttempt, Conversion, Subscription, Visitor
from tests.factories import (
    CallbackFactory,
    ConversionFactory,
    SubscriptionFactory,
    UserFactory,
    VisitorFactory,
)
from tests.test_admin import shown, url
from tests.test_admin_conversions import choose, confirmed
from tests.test_admin_partners import said
from tests.test_admin_visitors import found, table

pytestmark = pytest.mark.django_db

SUSPENDED = {"conversion__subscription__callbacks_suspended_on": timezone.now()}


def test_callback() -> Callback:
    """Make one that was a test of the address."""
    subscription = SubscriptionFactory()
    return Callback.objects.create(
        subscription=subscription,
        partner=subscription.partner,
        event="test",
        status="delivered",
        url="https://partner.example/",
    )


test_callback.__test__ = False  # type: ignore[attr-defined] # a name, not a test


class TestSendingAgain:
    def test_sends_the_same_url_under_the_same_id(self, staff: Client) -> None:
        callback = CallbackFactory(status="exhausted", attempt_count=10)
        assert url(callback, "resend") in staff.get(url(callback)).text
        assert "with the same callback id" in shown(staff.get(url(callback, "resend")))
        callback.refresh_from_db()
        assert callback.status == "exhausted"
        page = staff.post(url(callback, "resend"), follow=True)
        assert "The callback is being sent again." in shown(page)
        callback.refresh_from_db()
        assert (callback.status, callback.is_manual) == ("queued", True)
        assert said(callback) == ["The callback is being sent again."]

    def test_with_the_current_url_is_a_new_callback(self, staff: Client) -> None:
        callback = CallbackFactory(status="delivered")
        Subscription.objects.update(callback_url="https://new.example/?v={visitor_id}")
        page = staff.post(url(callback, "resend_anew"), follow=True)
        anew = Callback.objects.latest("pk")
        assert page.redirect_chain[-1][0] == url(anew)
        assert anew.url == f"https://new.example/?v={callback.conversion.visitor_id}"
        assert said(callback) == ["A new callback is being sent."]
        assert said(anew) == [f"Sent instead of callback {callback.pk}."]

    def test_with_a_url_that_does_not_say_which_visitor_is_cancelled_with_the_reason(
        self, staff: Client
    ) -> None:
        callback = CallbackFactory()
        Subscription.objects.update(callback_url="https://new.example/?c={click_id}")
        page = staff.post(url(callback, "resend_anew"), follow=True)
        assert "cancelled as well: The visitor came without a click id." in shown(page)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            (SUSPENDED, "Resume them on the subscription’s page first."),
            ({"status": "delivered"} | SUSPENDED, "Resume them on the subscription’s page first."),
            ({"status": "cancelled", "reason": "x"}, "Send it with the current URL instead."),
            ({"url": ""}, "its URL was erased"),
            ({"lease_token": "x", "next_attempt_on": "2099-01-01T00:00Z"}, "right now"),
        ],
    )
    def test_says_why_it_cannot_be(
        self, fields: dict[str, Any], message: str, staff: Client
    ) -> None:
        callback = CallbackFactory(**fields)
        page = staff.post(url(callback, "resend"), follow=True)
        assert message in shown(page)
        assert said(callback) == []

    def test_with_a_url_that_there_is_not_any_more_says_so(self, staff: Client) -> None:
        callback = CallbackFactory()
        Subscription.objects.update(callback_url="")
        page = staff.post(url(callback, "resend_anew"), follow=True)
        assert (
            "This subscription has no callback URL. Enter one in the subscription to send "
            "callbacks."
        ) in shown(page)
        assert said(callback) == []

    def test_is_not_for_tests_of_an_address(self, staff: Client) -> None:
        callback = test_callback()
        page = staff.get(url(callback)).text
        for name in ("resend", "resend_anew"):
            assert url(callback, name) not in page
            answer = staff.post(url(callback, name), follow=True)
            assert "Send a new one from the subscription’s page." in shown(answer)
        assert Callback.objects.count() == 1


class TestCancelling:
    def test_asks_why_and_takes_back_what_waits(self, staff: Client) -> None:
        callback = CallbackFactory()
        assert "will not be sent" in shown(staff.get(url(callback, "cancel")))
        assert "This field is required." in shown(staff.post(url(callback, "cancel"), {}))
        callback.refresh_from_db()
        assert callback.status == "queued"
        page = staff.post(url(callback, "cancel"), {"reason": "Told by phone."}, follow=True)
        assert "The callback was cancelled." in shown(page)
        callback.refresh_from_db()
        assert (callback.status, callback.reason) == ("cancelled", "Told by phone.")
        assert said(callback) == ["The callback was cancelled. Told by phone."]

    def test_is_offered_for_what_waits_only(self, staff: Client) -> None:
        callback = CallbackFactory(status="delivered", delivered_on=timezone.now())
        assert url(callback, "cancel") not in staff.get(url(callback)).text
        page = staff.post(url(callback, "cancel"), {"reason": "x"}, follow=True)
        assert "The callback is no longer waiting to be sent, so it was not cancelled." in shown(
            page
        )
        callback.refresh_from_db()
        assert callback.status == "delivered"


class TestManyCallbacks:
    def test_are_asked_about_and_then_sent_again(self, staff: Client) -> None:
        rows = [CallbackFactory(status="exhausted"), CallbackFactory(status="cancelled")]
        page = staff.post(url(Callback), choose(rows, "resend_selected"))
        assert "This applies to 1 callback:" in shown(page)
        assert not Callback.objects.filter(status="queued").exists()
        form = choose(rows, "resend_selected", confirmed="yes")
        text = shown(staff.post(url(Callback), form, follow=True))
        assert "Sending 1 callback again." in text
        assert "1 callback was skipped" in text
        assert (said(rows[0]), said(rows[1])) == (["The callback is being sent again."], [])

    def test_are_sent_with_the_current_url(self, staff: Client) -> None:
        rows = [CallbackFactory(), test_callback()]
        form = choose(rows, "resend_selected_anew", confirmed="yes")
        staff.post(url(Callback), form)
        assert Callback.objects.count() == 3

    def test_are_cancelled_with_one_reason(self, staff: Client) -> None:
        rows = CallbackFactory.create_batch(2)
        form = choose(rows, "cancel_selected", confirmed="yes", reason="Wrong URL.")
        staff.post(url(Callback), form)
        assert {row.reason for row in Callback.objects.all()} == {"Wrong URL."}
        assert said(rows[1]) == ["The callback was cancelled. Wrong URL."]

    @pytest.mark.parametrize(
        ("action", "message", "done"),
        [
            ("resend_selected", "The callback is being sent again.", "Sending {} callback"),
            ("resend_selected_anew", "A new callback is being sent.", "Sending {} new callback"),
            ("cancel_selected", "The callback was cancelled.", "Cancelled {} callback"),
        ],
    )
    def test_of_a_whole_list_are_done_so_many_at_once_each_of_them_once(
        self, staff: Client, monkeypatch: pytest.MonkeyPatch, action: str, message: str, done: str
    ) -> None:
        monkeypatch.setattr("affiliations.admin.actions.AT_ONCE", 2)
        rows = CallbackFactory.create_batch(3)
        unable = test_callback()
        page = staff.post(url(Callback), choose(rows[:1], action, select_across="1", index="0"))
        assert "This applies to 2 callbacks:" in shown(page)
        page = staff.post(url(Callback), confirmed(page, reason="x"))
        text = shown(page)
        assert done.format(2) in text
        assert "This applies to 1 callback:" in text
        page = staff.post(url(Callback), confirmed(page, reason="x"), follow=True)
        assert page.redirect_chain == [(url(Callback), 302)]
        assert done.format(1) in shown(page)
        for row in rows:
            assert said(row) in ([message], [f"{message} x"])
        assert said(unable) == []

    def test_is_cancelled_by_status_and_sent_again_by_what_it_is(self, staff: Client) -> None:
        rows = {status: CallbackFactory(status=status) for status in Callback.Status.values}
        deal = CallbackFactory(status="cancelled", reason=outbox.IS_TEST)
        blank = CallbackFactory(url="")
        able = {
            "resend_selected": [rows["queued"], rows["delivered"], rows["exhausted"], deal],
            "resend_selected_anew": [*rows.values(), deal, blank],
            "cancel_selected": [rows["queued"], blank],
        }
        for action, meant in able.items():
            page = staff.post(url(Callback), choose([*rows.values(), deal, blank], action))
            keys = confirmed(page)["_selected_action"]
            assert sorted(map(int, keys)) == sorted(one.pk for one in meant), action


def test_a_callback_is_found_by_all_that_somebody_may_ask_with(staff: Client) -> None:
    user = UserFactory()
    conversion = ConversionFactory(
        visitor=VisitorFactory(pk=7001, click_id="click-42"), user=user, reference="shop.order:17"
    )
    callback = CallbackFactory(conversion=conversion)
    CallbackFactory()
    for term in ("shop.order:17", "click-42", "7001", user.email, callback.webhook_id):
        assert found(staff, Callback, term) == [callback], term
    assert callback in found(staff, Callback, str(callback.pk))
    assert len(found(staff, Callback, "")) == 2


def test_a_test_callback_tells_of_nothing(staff: Client) -> None:
    callback = test_callback()
    assert shown(staff.get(url(Callback)))
    assert shown(staff.get(url(callback)))
    [_header, row] = table(staff.get(url(Callback, "csv"), {"is_test__exact": "1"}))
    assert row[1] == "test"


def test_what_is_a_test_is_in_no_file_unless_it_is_asked_for(staff: Client) -> None:
    tried = ConversionFactory(is_test=True, visitor__is_test=True)
    rows = {
        "real": CallbackFactory(),
        "deal": CallbackFactory(conversion=tried),
        "address": test_callback(),
    }
    for callback in rows.values():
        CallbackAttempt.objects.create(
            callback=callback, number=1, started_on=timezone.now(), duration_ms=5
        )
    real, deal, address = (str(callback.pk) for callback in rows.values())
    for model, column in ((Callback, 0), (CallbackAttempt, 1)):
        for asked, expected in (
            ({}, [real]),
            ({"is_test__exact": "0"}, [real]),
            ({"is_test__exact": "1"}, [deal, address]),
        ):
            lines = table(staff.get(url(model, "csv"), asked))[1:]
            assert [line[column] for line in lines] == expected, (model, asked)
            shown_rows = staff.get(url(model), asked).context["cl"].result_count
            assert shown_rows == (len(expected) if asked else 3)
        for page in (url(model), url(model, "csv")):
            assert staff.get(page, {"is_test__exact": "x"}).status_code == 302
    assert "By test" in shown(staff.get(url(Callback)))


@pytest.mark.parametrize("asked", ["0", "1"])
@pytest.mark.parametrize("model", [Visitor, Conversion, Callback, CallbackAttempt])
def test_a_list_is_filtered_by_tests_without_reading_other_tables(
    model: Any, asked: str, staff: Client
) -> None:
    """Most rows are no tests: to find the tests through other rows, all would be read."""
    with CaptureQueriesContext(connection) as queries:
        staff.get(url(model), {"is_test__exact": asked})
    counts = [query["sql"] for query in queries if "COUNT(*)" in query["sql"]
              and model._meta.db_table in query["sql"] and "is_test" in query["sql"]]  # fmt: skip
    # Above the list of conversions stands how many need review.
    assert len(counts) == (2 if model is Conversion else 1)
    assert not any("JOIN" in count for count in counts)


def test_an_attempt_is_found_by_all_that_somebody_may_ask_with(staff: Client) -> None:
    user = UserFactory()
    conversion = ConversionFactory(
        visitor=VisitorFactory(pk=7001, click_id="click-42"), user=user, reference="shop.order:17"
    )
    callbacks = CallbackFactory(conversion=conversion, pk=8001), CallbackFactory(pk=8002)
    attempt, other = (
        CallbackAttempt.objects.create(
            pk=pk, callback=callback, number=1, started_on=timezone.now(), duration_ms=5
        )
        for pk, callback in zip((9001, 9002), callbacks, strict=True)
    )
    terms = ["shop.order:17", "click-42", "7001", user.email, callbacks[0].webhook_id, "8001"]
    for term in [*terms, "9001", f" {user.get_username()} "]:
        assert found(staff, CallbackAttempt, term) == [attempt], term
    assert found(staff, CallbackAttempt, "") == [other, attempt]
    assert found(staff, CallbackAttempt, "click-4") == []


def test_attempts_are_narrowed_by_the_trigger_that_they_tell_of(staff: Client) -> None:
    attempts = [
        CallbackAttempt.objects.create(
            callback=CallbackFactory(conversion__subscription__trigger=trigger),
            number=1,
            started_on=timezone.now(),
            duration_ms=5,
        )
        for trigger in ("Order placed", "User registered")
    ]
    page = staff.get(url(CallbackAttempt), {"trigger": "User registered"})
    assert list(page.context["cl"].result_list) == attempts[1:]


def test_a_list_shows_which_trigger_it_is_narrowed_by_whatever_that_is(staff: Client) -> None:
    of_old = CallbackFactory(conversion__subscription__trigger="Before <it> was renamed")
    Subscription.objects.update(trigger="Renamed")
    page = staff.get(url(Conversion), {"trigger": "Before <it> was renamed"})
    assert list(page.context["cl"].result_list) == [of_old.conversion]
    assert re.search('<li class="selected">[^/]*>Before &lt;it&gt; was renamed</a>', page.text)
    for no_name in ("x" * 101, "\0"):
        page = staff.get(url(Conversion), {"trigger": no_name}, follow=True)
        assert f">{no_name}</a>" not in page.text


def test_csv_files_say_everything_as_the_lists_do(staff: Client, settings: Any) -> None:
    settings.LANGUAGE_CODE = "da"
    callback = CallbackFactory(status="exhausted")
    CallbackAttempt.objects.create(
        callback=callback, number=1, started_on=timezone.now(), duration_ms=5, error="dns"
    )
    for model, words in (
        (Callback, ["konvertering", "opgivet"]),
        (CallbackAttempt, ["værtsnavnet blev ikke fundet", "nej"]),
        (Visitor, ["nej"]),
        (Conversion, ["godkendt", "nej"]),
    ):
        text = b"".join(staff.get(url(model, "csv")).streaming_content).decode("utf-8-sig")
        cells = text.splitlines()[1].split(";")
        assert [word for word in words if word not in cells] == [], cells


@pytest.mark.parametrize(("status", "is_due"), [("queued", True), ("delivered", False)])
def test_a_callback_says_when_it_is_tried_next_while_there_is_a_next_time(
    status: str, is_due: bool, staff: Client
) -> None:
    callback = CallbackFactory(status=status)
    assert ("Next attempt on:" in shown(staff.get(url(callback)))) is is_due


def test_each_attempt_says_how_it_ended(staff: Client) -> None:
    callback = CallbackFactory()
    for number, error in enumerate(("dns", ""), start=1):
        CallbackAttempt.objects.create(
            callback=callback,
            number=number,
            started_on=timezone.now(),
            duration_ms=5,
            error=error,
            response_excerpt="<b>hello</b>",
        )
    page = staff.get(url(CallbackAttempt))
    text = shown(page)
    assert "the host name was not found" in text
    assert "accepted" in text
    assert f'href="{url(callback)}"' in page.text
    one = staff.get(url(CallbackAttempt.objects.get(number=2)))
    assert "<b>hello</b>" not in one.text
    assert callback.partner.name in shown(one)
    narrowed = staff.get(url(CallbackAttempt), {"partner": callback.partner.uid})
    assert narrowed.context["cl"].result_count == 2
    _header, first, _second = table(staff.get(url(CallbackAttempt, "csv")))
    assert first[:4] == [first[0], str(callback.pk), callback.partner.name, "1"]


def test_the_file_of_attempts_names_a_partner_in_full(staff: Client) -> None:
    name = "A partner whose name is longer than a column of the list"
    callback = CallbackFactory(conversion__visitor__partner__name=name)
    callback.attempts.create(number=1, started_on=timezone.now(), duration_ms=1)
    header, row = table(staff.get(url(CallbackAttempt, "csv")))
    assert row[header.index("Partner")] == name
    assert name not in shown(staff.get(url(CallbackAttempt, "changelist")))
