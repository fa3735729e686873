"""The latest events of the site and of a partner: what is told, to whom, and what it costs."""

from __future__ import annotations

from datetime import timedelta
from io import BytesIO, StringIO, TextIOWrapper
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from affiliations import timeline
from affiliations.exceptions import Reason
from affiliations.management import site_state
from affiliations.models import (
    CallbackAttempt,
    FailedTrigger,
    Partner,
    RecentFilteredClick,
    Subscription,
    UncreditedTrigger,
    Visitor,
)
from affiliations.timeline import activity
from tests.factories import (
    CallbackFactory,
    ConversionFactory,
    PartnerFactory,
    SubscriptionFactory,
    UserFactory,
    VisitorFactory,
)

pytestmark = pytest.mark.django_db

NOW = timezone.now()


def happen(partner: Partner, times: int = 1) -> None:
    """Let one event of each kind happen, with what can go wrong."""
    for number in range(times):
        visitor = VisitorFactory(partner=partner, referred_on=NOW - timedelta(minutes=9))
        UncreditedTrigger.objects.add(visitor, "Order placed", Reason.STOPPED, f"A-{number}", NOW)
        RecentFilteredClick.objects.add(partner, Reason.BOT, partner.uid, "Firefox")
        conversion = ConversionFactory(
            visitor=visitor,
            status="pending",
            review_reason=Reason.NO_AMOUNT,
            reference=f"B-{number}",
        )
        callback = CallbackFactory(conversion=conversion, subscription=conversion.subscription)
        CallbackAttempt.objects.create(
            callback=callback,
            number=1,
            started_on=NOW,
            duration_ms=1,
            error=CallbackAttempt.Error.BLOCKED_ADDRESS,
        )


def explained(*options: str) -> str:
    output = StringIO()
    call_command("explain_affiliation", *options, stdout=output)
    return output.getvalue()


class TestTheEvents:
    def test_are_of_every_kind_with_the_cure_newest_first(self, partner: Partner) -> None:
        happen(partner)
        entries = timeline.recent()
        assert [entry.on for entry in entries] == sorted(
            (entry.on for entry in entries), reverse=True
        )
        cures = {type(entry.about): entry.cure for entry in reversed(entries)}
        assert cures[RecentFilteredClick] == Reason.BOT.cure
        assert cures[UncreditedTrigger] == Reason.STOPPED.cure
        assert Reason.NO_AMOUNT.cure in [entry.cure for entry in entries]
        assert cures[CallbackAttempt] == CallbackAttempt.Error.BLOCKED_ADDRESS.cure
        assert cures[Visitor] == ""

    def test_of_a_partner_are_that_partners(self, partner: Partner) -> None:
        happen(PartnerFactory())
        assert timeline.recent(partner=partner) == []
        happen(partner)
        VisitorFactory(partner=partner, is_test=True)
        assert len(timeline.recent(partner=partner)) == 8
        assert len(timeline.recent()) == 15

    def test_before_a_time_are_left_out(self, partner: Partner) -> None:
        VisitorFactory(partner=partner, referred_on=NOW - timedelta(hours=2))
        ConversionFactory(partner=partner, created_on=NOW - timedelta(hours=2))
        assert timeline.recent(since=NOW - timedelta(hours=1)) != timeline.recent()

    def test_with_an_unknown_id_show_it(self, db: None) -> None:
        RecentFilteredClick.objects.add(None, Reason.UNKNOWN_PARTNER, "mooxxxxx", "")
        [entry] = timeline.recent()
        assert entry.text == "A click with the id “mooxxxxx” was not counted: unknown partner id."

    @pytest.mark.parametrize("is_of_partner", [False, True])
    def test_cost_the_same_however_many_there_are(
        self, partner: Partner, is_of_partner: bool
    ) -> None:
        def cost() -> int:
            with CaptureQueriesContext(
                connection,
            ) as queries:
                found = timeline.recent(partner=partner if is_of_partner else None, limit=5)
            assert len(found) == 6
            return len(queries)

        happen(partner)
        few = cost()
        happen(partner, times=12)
        assert cost() == few <= 9

    def test_of_uncredited_triggers_are_found_among_the_newest(
        self, partner: Partner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(activity, "_NEWEST", 1)
        for number in range(2):
            UncreditedTrigger.objects.add(
                VisitorFactory(), "Order placed", Reason.STOPPED, f"{number}", NOW
            )
        found = [entry for entry in timeline.recent() if isinstance(entry.about, UncreditedTrigger)]
        assert len(found) == 1


class TestTheCommand:
    def test_without_an_option_tells_the_last_hour(self, partner: Partner) -> None:
        happen(partner)
        VisitorFactory(partner=partner, referred_on=NOW - timedelta(hours=2), click_id="old")
        said = explained()
        assert said.startswith("In the last hour, the newest first:\n")
        assert f"→ {Reason.BOT.cure}\n" in said
        assert "old" not in said
        assert "Only the newest" not in said

    def test_prints_a_bounded_number(self, partner: Partner) -> None:
        happen(partner, times=8)
        said = explained()
        assert "Only the newest 30 are shown.\n" in said

    def test_says_what_to_check_if_nothing_happened(self, db: None) -> None:
        said = explained()
        assert said.startswith("Nothing happened in the last hour.\nTo check:\n")
        assert "  - There is no partner: add one in the Admin, and tick “Active”.\n" in said
        assert "  - No active partner subscribes to “Order placed”" in said
        assert "“Order placed” is waiting for" in said
        assert "leaves no row: with DEBUG = True" in said

    def test_names_what_a_trigger_that_has_not_fired_waits_for(self, partner: Partner) -> None:
        """Others may have, and the click is the newest."""
        ConversionFactory(visitor__partner=partner, trigger="Other")
        VisitorFactory(partner=partner)
        said = explained()
        assert "“Order placed” is waiting for" in said
        assert "localhost and 127.0.0.1 have different sessions" in said
        ConversionFactory(visitor__partner=partner, trigger="Order placed")
        assert "“Order placed” is waiting for" not in explained()

    def test_asks_for_the_migrations_if_a_table_is_missing(
        self, db: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def recent(**kwargs: object) -> None:
            raise OperationalError("no such table: affiliations_visitor")

        monkeypatch.setattr(timeline, "recent", recent)
        with pytest.raises(CommandError, match=r"no such table.*manage\.py migrate"):
            explained()

    def test_names_a_link_to_follow(self, partner: Partner) -> None:
        assert f"Follow a partner’s link in a browser: {partner.link('/')}\n" in explained()

    @pytest.mark.parametrize("key", ["uid", "pk", "name"])
    def test_finds_a_partner(self, key: str) -> None:
        partner = PartnerFactory(name="Steep Notes")
        happen(partner)
        said = explained("--partner", str(getattr(partner, key)))
        assert said.startswith(f"Steep Notes ({partner.uid}), the newest first:\n")

    def test_prefers_a_primary_key_to_a_part_of_a_name(self, partner: Partner) -> None:
        PartnerFactory(name=f"Best teas of {partner.pk}")
        assert explained("--partner", str(partner.pk)).startswith(partner.name_and_uid)
        PartnerFactory(name=str(partner.pk))
        with pytest.raises(CommandError, match="Several partners"):
            explained("--partner", str(partner.pk))

    @pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
    def test_writes_to_a_file_that_has_not_all_characters(
        self, encoding: str, partner: Partner
    ) -> None:
        """Such as one of a shell on Windows."""
        file = TextIOWrapper(BytesIO(), encoding)
        RecentFilteredClick.objects.create(uid="ł", reason="bot")
        call_command("explain_affiliation", stdout=file)
        file.seek(0)
        assert r"\u2192 curl, scripts" in (said := file.read())
        assert r"\u0142" in said

    def test_finds_no_partner_or_several(self, db: None) -> None:
        with pytest.raises(CommandError, match="Partner 'Steep' does not exist"):
            explained("--partner", "Steep")
        PartnerFactory(name="Steep Notes"), PartnerFactory(name="Steep Leaves")
        with pytest.raises(CommandError, match="Several partners are called 'Steep'"):
            explained("--partner", "Steep")

    def test_says_what_is_wrong_with_a_partner(self, settings: Any) -> None:
        partner = PartnerFactory(active=False)
        assert "is inactive. Tick “Active”" in (said := explained("--partner", partner.uid))
        assert "has no active subscription to a trigger: add one." in said
        SubscriptionFactory(partner=partner, trigger="Removed")
        SubscriptionFactory(partner=partner, callbacks_suspended_on=NOW)
        SubscriptionFactory(partner=partner, trigger="User registered")
        said = explained("--partner", partner.uid)
        assert "subscribes to “Removed”, which AFFILIATE_TRIGGERS does not have" in said
        assert "The callbacks of “Order placed” are suspended" in said
        assert "has no active subscription" not in said


class TestTheStateOfTheSite:
    def test_names_subscriptions_to_triggers_that_are_gone(self, partner: Partner) -> None:
        SubscriptionFactory(partner=partner, trigger="Removed")
        [found] = [text for text in site_state.problems() if "Removed" in text]
        assert found.startswith(f"{partner.name_and_uid} subscribes to “Removed”, which")

    def test_says_that_sending_is_off(self, settings: Any, db: None) -> None:
        settings.AFFILIATE_SEND_CALLBACKS = False
        found = list(site_state.problems())
        assert any("AFFILIATE_SEND_CALLBACKS is False" in text for text in found)

    def test_says_that_callbacks_wait_or_are_suspended(self, subscription: Subscription) -> None:
        callback = CallbackFactory(next_attempt_on=timezone.now() - timedelta(seconds=62))
        Subscription.objects.exclude(pk=callback.subscription_id).update(callbacks_suspended_on=NOW)
        found = list(site_state.problems())
        assert any("Callbacks that wait: 1, the oldest for 6" in text for text in found)
        assert any("keep failing: 1. “Resume”" in text for text in found)

    def test_counts_triggers_that_failed(self, db: None) -> None:
        for tries in (1, 100):
            FailedTrigger.objects.create(trigger="x", kind="credit", due_on=NOW, tries=tries)
        found = " ".join(site_state.problems())
        assert "are tried again: 1." in found
        assert "given up: 1." in found

    def test_names_what_a_trigger_waits_for_however_it_is_written(
        self, settings: Any, db: None
    ) -> None:
        settings.AFFILIATE_TRIGGERS = [
            ("A", "x.signal", site_state.problems, Partner),
            ("B", "x.signal", "x.receiver", None),
            ("C", "x.signal", "x.receiver", None, {"of": "A"}),
        ]
        first, second = site_state.triggers()
        assert "“A” is waiting for x.signal of affiliations.Partner, received by problems" in first
        assert "“B” is waiting for x.signal of any sender, received by x.receiver" in second


class TestThePage:
    def page(self, client: Client, partner: Partner) -> str:
        url = reverse("admin:affiliations_partner_timeline", args=[partner.pk])
        response = client.get(url)
        assert response.status_code == 200
        return response.content.decode()

    def test_shows_the_events_with_the_cure(self, staff: Client, partner: Partner) -> None:
        assert "Nothing has happened yet" in self.page(staff, partner)
        happen(partner)
        page = self.page(staff, partner)
        assert "was not counted: known bot or crawler" in page
        assert "curl, scripts and headless browsers" in page
        assert "Only the newest" not in page

    def test_shows_a_bounded_number_with_as_many_queries(
        self, staff: Client, partner: Partner
    ) -> None:
        def cost() -> int:
            with CaptureQueriesContext(connection) as queries:
                self.page(staff, partner)
            return len(queries)

        happen(partner)
        self.page(staff, partner)
        few = cost()
        happen(partner, times=12)
        assert cost() == few
        assert "Only the newest 50 are shown." in " ".join(self.page(staff, partner).split())

    def test_shows_nothing_that_the_user_may_not_view(self, partner: Partner) -> None:
        happen(partner)
        user = UserFactory(is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename="view_partner"))
        client = Client()
        client.force_login(user)
        page = self.page(client, partner)
        assert "fired but was not credited" in page  # As beside the filtered clicks.
        for text in ("clicked a link", "was recorded as", "Attempt 1", "was not counted"):
            assert text not in page


class TestTheRepresentation:
    def test_stays_in_its_line(self) -> None:
        visitor = Visitor(partner=Partner(name="Steep\n\x1b[2JNotes", uid="moox6esi"))
        assert repr(visitor).startswith(r"<Visitor None of Steep\n\x1b[2JNotes (moox6esi), ")

    def test_of_a_visitor_says_who_it_is(self, db: None) -> None:
        visitor = VisitorFactory(partner__name="Steep Notes", partner__uid="moox6esi")
        clicked = f"{timezone.localtime(visitor.referred_on):%Y-%m-%d %H:%M}"
        assert repr(visitor) == (
            f"<Visitor {visitor.pk} of Steep Notes (moox6esi), clicked {clicked}>"
        )

    def test_asks_the_database_for_nothing(
        self, django_assert_num_queries: Any, settings: Any
    ) -> None:
        pk = VisitorFactory().pk
        few = Visitor.objects.only("id").get(pk=pk)
        whole = Visitor.objects.get(pk=pk)
        with django_assert_num_queries(0):
            assert repr(few) == f"<Visitor {pk} of partner None, clicked None>"
            assert f"of partner {whole.partner_id}, clicked 20" in repr(whole)
        assert repr(Visitor()).startswith("<Visitor None of partner None, clicked ")

    def test_of_the_request_says_it_too(self, client: Client, partner: Partner) -> None:
        request = client.get("/").wsgi_request
        assert repr(request.affiliate_visitor) == "<no visitor>"
        client.get(partner.link("/"))
        request = client.get("/").wsgi_request
        assert repr(request.affiliate_visitor) == repr(
            Visitor.objects.select_related("partner").get()
        )

    def test_never_raises(
        self, client: Client, partner: Partner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client.get(partner.link("/"))
        request = client.get("/").wsgi_request
        monkeypatch.setattr("affiliations.tracking.visitors.current_visitor", lambda request: 1 / 0)
        assert repr(request.affiliate_visitor) == "<visitor not looked up: ZeroDivisionError>"
