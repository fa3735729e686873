"""The partner's own page: what is seen behind a private link, and that nobody else sees it."""

from __future__ import annotations

import csv
import io
import re
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.http import HttpRequest
from django.test import Client, override_settings
from django.urls import reverse
from django.utils.html import strip_tags
from django.utils.timezone import override

from affiliations import urls
from affiliations.conversions import adjustments, decisions, settlements
from affiliations.dates import Period
from affiliations.exceptions import Reason
from affiliations.models import (
    Callback,
    Conversion,
    FilteredClicks,
    Partner,
    Settlement,
    Subscription,
    Visitor,
)
from tests.browsers import HANDLERS, Browser
from tests.factories import (
    CallbackFactory,
    ConversionFactory,
    PartnerFactory,
    SubscriptionFactory,
    UserFactory,
    VisitorFactory,
)
from tests.settings import MANY_ROWS

pytestmark = pytest.mark.django_db
QUERIES = 17
LOGIN_REQUIRED = "django.contrib.auth.middleware.LoginRequiredMiddleware"

NOW = datetime.now(timezone.utc)
Status = Conversion.Status


@pytest.fixture(params=HANDLERS, ids=["wsgi", "asgi"])
def browser(request: pytest.FixtureRequest) -> Browser:
    return request.param()


@pytest.fixture
def partner(partner: Partner) -> Partner:
    partner.replace_page_link()
    return partner


@pytest.fixture
def subscription(partner: Partner) -> Subscription:
    return SubscriptionFactory(
        partner=partner,
        payout_type=Subscription.PayoutType.PERCENT,
        payout_value=Decimal(10),
        counting=Subscription.Counting.EVERY,
    )


def link(partner: Partner, rest: str = "") -> str:
    path = partner.page_link()
    assert path is not None
    return path + rest


def see(client: Client, partner: Partner, rest: str = "") -> str:
    """Return what somebody reads on a page."""
    return text(client.get(link(partner, rest)))


def text(response: Any) -> str:
    assert response.status_code == 200
    return re.sub(r"\s+", " ", unescape(strip_tags(response.content.decode())))


def convert(subscription: Subscription, **facts: Any) -> Conversion:
    """Credit a new visitor with an order of 20.00 EUR, of which 2.00 EUR are paid."""
    labels = {name: facts.pop(name) for name in ("click_id", "sub1") if name in facts}
    visitor = VisitorFactory(partner=subscription.partner, **labels)
    return ConversionFactory(
        **{
            "visitor": visitor,
            "subscription": subscription,
            "payout_type": subscription.payout_type,
            "amount": Decimal("20.00"),
            "currency": "EUR",
            "payout": Decimal("2.00"),
            "payout_currency": "EUR",
            "decided_on": NOW - timedelta(minutes=1),
        }
        | facts
    )


def costly(request: HttpRequest) -> dict[str, Any]:
    raise ZeroDivisionError


def file(response: Any) -> list[dict[str, str]]:
    content = response.getvalue().decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(content, newline="")))


class TestTheLink:
    def test_opens_the_page_for_whoever_has_it(self, browser: Browser, partner: Partner) -> None:
        answer = browser.get(link(partner))
        assert answer.status == 200
        assert partner.name in answer.body.decode()

    @pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
    def test_opens_each_page_on_a_site_that_requires_a_login(
        self, settings: Any, browser: Browser, partner: Partner, method: str
    ) -> None:
        """A redirect to the login would have the private link in its URL."""
        settings.MIDDLEWARE = [*settings.MIDDLEWARE, LOGIN_REQUIRED]
        subscription = SubscriptionFactory(
            partner=partner, payout_type=Subscription.PayoutType.FIXED, payout_currency="EUR"
        )
        convert(subscription)
        settled = settlements.settle(partner, "EUR", NOW)
        assert settled is not None
        right = {"uid": partner.uid, "token": link(partner).split("/")[-2], "number": settled.pk}
        wrong = right | {"token": "x" * 43}
        for pattern in urls.urlpatterns:
            for known, status in ((right, 200), (wrong, 404)):
                kwargs = {name: known[name] for name in pattern.pattern.converters}
                answer = browser.request(
                    method, reverse(f"affiliations:{pattern.name}", kwargs=kwargs)
                )
                assert answer.status == (405 if method == "OPTIONS" else status)
                assert "Location" not in answer
        assert browser.get("/page/").status == 302

    def test_is_answered_by_a_head_as_well(self, browser: Browser, partner: Partner) -> None:
        assert browser.request("HEAD", link(partner)).status == 200

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
    @pytest.mark.parametrize("rest", ["", "conversions.csv", "settlements/1/"])
    def test_is_there_to_look_at_only(self, partner: Partner, method: str, rest: str) -> None:
        response = Client().generic(method, link(partner, rest))
        assert response.status_code == 405

    def test_opens_nothing_once_it_was_replaced(self, client: Client, partner: Partner) -> None:
        old = link(partner)
        partner.replace_page_link()
        assert client.get(old).status_code == 404
        assert client.get(link(partner)).status_code == 200

    def test_opens_nothing_once_it_was_revoked(self, client: Client, partner: Partner) -> None:
        old = link(partner)
        partner.revoke_page_link()
        assert client.get(old).status_code == 404
        assert partner.page_link() is None

    def test_opens_nothing_once_the_partner_was_stopped_for_fraud(
        self, client: Client, partner: Partner
    ) -> None:
        old = link(partner)
        decisions.stop_for_fraud(partner, reason="Bought clicks")
        assert client.get(old).status_code == 404

    def test_still_opens_the_page_of_a_partner_without_a_deal(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        convert(subscription)
        Partner.objects.update(active=False)
        seen = see(client, partner)
        assert "The tracking link is inactive" in seen
        assert "Your tracking link" not in seen
        assert "2.00 EUR" in seen

    def test_of_one_partner_opens_nothing_of_another(
        self, client: Client, partner: Partner
    ) -> None:
        other = PartnerFactory()
        other.replace_page_link()
        token = link(other).split("/")[-2]
        assert client.get(f"/partner/{partner.uid}/{token}/").status_code == 404

    @pytest.mark.parametrize("rest", ["", "conversions.csv", "settlements/1/"])
    def test_says_the_same_whether_unknown_revoked_or_malformed(
        self, browser: Browser, partner: Partner, rest: str
    ) -> None:
        revoked = link(partner)
        partner.revoke_page_link()
        wrong = {
            "revoked": revoked,
            "unknown": f"/partner/nobody12/{'x' * 43}/",
            "wrong": f"/partner/{partner.uid}/{'x' * 43}/",
            "short": f"/partner/{partner.uid}/xxx/",
            "not ascii": "/partner/%C3%A4%FF/%F0%9F%98%80/",
            "a NUL": f"/partner/%00/{'x' * 43}/",
        }
        answers = {name: browser.get(path + rest) for name, path in wrong.items()}
        assert {answer.status for answer in answers.values()} == {404}
        assert len({answer.body for answer in answers.values()}) == 1
        assert b"Page not found" in answers["revoked"].body

    @pytest.mark.parametrize(
        ("path", "queries"),
        [
            (f"/partner/nobody12/{'x' * 43}/", 1),
            ("/partner/nobody12/short/", 0),
            (f"/partner/no-uid/{'x' * 43}/conversions.csv", 0),
        ],
    )
    def test_costs_next_to_nothing_where_it_is_wrong(
        self, browser: Browser, django_assert_num_queries: Any, path: str, queries: int
    ) -> None:
        browser.cookies["sessionid"] = "of somebody who is logged in"
        with django_assert_num_queries(queries):
            answer = browser.get(path)
        assert "Vary" not in answer
        assert "Set-Cookie" not in answer

    def test_does_not_ask_the_hosts_context_processors_where_it_is_wrong(
        self, client: Client, partner: Partner
    ) -> None:
        options = {"context_processors": [f"{__name__}.costly"]}
        templates = [django_settings.TEMPLATES[0] | {"OPTIONS": options}]
        with override_settings(TEMPLATES=templates):
            assert client.get("/partner/x/y/").status_code == 404
            with pytest.raises(ZeroDivisionError):
                client.get(link(partner))

    def test_is_kept_from_caches_indexes_and_other_sites(
        self, browser: Browser, partner: Partner, subscription: Subscription
    ) -> None:
        convert(subscription)
        settled = settlements.settle(partner, "EUR", NOW)
        assert settled is not None
        own = f"settlements/{settled.pk}/"
        for rest in ("", "conversions.csv", own, f"{own}statement.csv", "settlements/0/"):
            answer = browser.get(link(partner, rest))
            assert b"no-store" in answer["Cache-Control"]
            assert b"private" in answer["Cache-Control"]
            assert answer["X-Robots-Tag"] == b"noindex, nofollow"
            assert answer["Referrer-Policy"] == b"no-referrer"
            assert "Vary" not in answer
            assert "Set-Cookie" not in answer

    def test_keeps_its_referrer_policy_where_the_host_has_another(
        self, client: Client, partner: Partner
    ) -> None:
        security = "django.middleware.security.SecurityMiddleware"
        with override_settings(MIDDLEWARE=[security, *django_settings.MIDDLEWARE]):
            response = client.get(link(partner))
        assert response["Referrer-Policy"] == "no-referrer"

    def test_does_not_stand_on_what_it_opens(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        """So that it does not get about with what somebody prints, saves or sends on."""
        convert(subscription)
        settled = settlements.settle(partner, "EUR", NOW)
        assert settled is not None
        token = link(partner).split("/")[-2].encode()
        for rest in ("", f"settlements/{settled.pk}/"):
            assert token not in client.get(link(partner, rest)).content

    def test_registers_nobody_and_is_redirected_nowhere(
        self, client: Client, partner: Partner
    ) -> None:
        assert client.get(link(partner)).status_code == 200
        assert not Visitor.objects.exists()


class TestThePage:
    def test_shows_the_whole_tracking_link(self, client: Client, partner: Partner) -> None:
        seen = see(client, partner)
        assert f"http://testserver/?affiliate_id={partner.uid}" in seen
        assert "&click_id=…&sub1=…" in seen

    def test_shows_the_numbers_of_the_period(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        convert(subscription)
        convert(subscription, status=Status.PENDING, decided_on=None)
        VisitorFactory.create_batch(6, partner=partner)
        VisitorFactory(partner=partner, referred_on=NOW - timedelta(days=10))
        VisitorFactory(partner=partner, is_test=True)
        VisitorFactory()
        numbers = (
            "Conversions 2 Pending 1 Rejected 0 CR, % {} "
            "Revenue, EUR 40.00 AOV, EUR 20.00 "
            "Pending commission, EUR 2.00 Commission (approved), EUR 2.00 EPC, EUR {}"
        )
        week, month = see(client, partner, "?days=7"), see(client, partner)
        assert f"Clicks 8 {numbers.format('25.00', '0.25')}" in week
        assert f"Clicks 9 {numbers.format('22.22', '0.22')}" in month

    @pytest.mark.parametrize(("days", "rows"), [(7, 7), (30, 30), (90, 13), (365, 12)])
    def test_shows_them_over_time_as_charts_and_as_a_table(
        self,
        client: Client,
        partner: Partner,
        subscription: Subscription,
        days: int,
        rows: int,
    ) -> None:
        convert(subscription)
        shown = client.get(link(partner, f"?days={days}")).content.decode()
        assert shown.count('<th scope="row">') == rows + 2  # arrived and counted
        titles = re.findall(r"<figcaption>(.*?)</figcaption>\s*<svg", shown)
        assert titles == ["Clicks", "Conversions", "Commission (approved), EUR"]

    def test_draws_nothing_where_nothing_has_happened(
        self, client: Client, partner: Partner
    ) -> None:
        assert "<svg" not in client.get(link(partner)).content.decode()
        assert "Clicks 0" in see(client, partner)

    def test_shows_a_conversion_with_what_it_earns(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        convert(subscription, click_id="c-42")
        seen = see(client, partner)
        assert "Order placed" in seen
        assert "c-42" in seen
        assert "2.00 EUR approved" in seen

    def test_shows_why_a_conversion_waits_or_was_rejected(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        convert(subscription, status=Status.REJECTED, reason="Sent back")
        convert(subscription, status=Status.PENDING, reason="Somebody is to look at it")
        seen = see(client, partner)
        assert "rejected Sent back" in seen
        assert "pending Somebody is to look at it" in seen

    def test_keeps_the_reason_of_what_was_approved_after_all(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        convert(subscription, reason="Looked like their own account")
        assert "Looked like" not in see(client, partner)

    def test_shows_what_a_correction_has_changed(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        conversion = convert(subscription)
        adjustments.adjust(conversion, payout=Decimal("-0.50"), reason="One of four sent back")
        seen = see(client, partner)
        assert "1.50 EUR approved Adjusted by -0.50 EUR. One of four sent back" in seen

    def test_shows_a_conversion_that_pays_nothing(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        convert(subscription, payout=None, payout_currency="")
        assert "approved" in see(client, partner)

    def test_names_no_customer_and_shortens_references(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        user = UserFactory(email="anna@buyer.example")
        conversion = convert(subscription, reference="order-2026-1234", user=user, decided_by=user)
        Visitor.objects.filter(pk=conversion.visitor_id).update(user=user)
        assert settlements.settle(partner, "EUR", NOW, by=user)
        settled = Settlement.objects.get()
        for rest in ("", "conversions.csv", f"settlements/{settled.pk}/",
                     f"settlements/{settled.pk}/statement.csv"):  # fmt: skip
            response = client.get(link(partner, rest))
            shown = response.getvalue().decode()
            assert "…1234" in shown
            assert "2026-1234" not in shown
            assert "anna" not in shown
            assert user.get_username() not in shown

    def test_shows_nothing_of_other_partners_and_no_test(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        convert(SubscriptionFactory(), click_id="of another")
        convert(subscription, click_id="of a test", is_test=True)
        assert "No conversions in this period. Choose a longer period to see earlier ones." in see(
            client, partner
        )
        assert file(client.get(link(partner, "conversions.csv"))) == []

    def test_shows_the_conversions_of_the_period_that_was_chosen(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        convert(subscription, click_id="of today")
        convert(subscription, click_id="of last week", created_on=NOW - timedelta(days=10))
        convert(subscription, click_id="of spring", created_on=NOW - timedelta(days=100))
        shown = {
            days: [one for one in ("of today", "of last week", "of spring") if one in seen]
            for days in ("7", "30", "365", "nonsense")
            if (seen := see(client, partner, f"?days={days}"))
        }
        assert shown == {
            "7": ["of today"],
            "30": ["of today", "of last week"],
            "365": ["of today", "of last week", "of spring"],
            "nonsense": ["of today", "of last week"],
        }
        rows = file(client.get(link(partner, "conversions.csv?days=7")))
        assert [row["Click id"] for row in rows] == ["of today"]

    def test_shows_a_page_of_conversions_at_a_time(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        for number in range(26):
            convert(subscription, click_id=f"click-{number:02}", created_on=NOW - timedelta(number))
        first = client.get(link(partner)).content.decode()
        [older] = re.findall(r'rel="next" href="([^"#]*)#conversions"', first)
        second = see(client, partner, unescape(older))
        assert "click-25" not in first
        assert "click-25" in second
        assert "click-24" not in second
        assert "Page 2 of 2" in second

    @pytest.mark.parametrize("page", ["0", "-1", "99", "x", "9" * 400, "%00", "1.5"])
    def test_shows_some_page_whatever_is_asked_for(
        self, client: Client, partner: Partner, subscription: Subscription, page: str
    ) -> None:
        convert(subscription)
        assert "2.00 EUR" in see(client, partner, f"?page={page}&settlements={page}&days={page}")

    def test_keeps_the_period_and_the_other_page_from_page_to_page(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        for _ in range(26):
            convert(subscription)
        shown = client.get(link(partner, "?days=90&settlements=1&evil=%22%3E")).content.decode()
        assert 'href="?days=90&amp;settlements=1&amp;page=2#conversions"' in shown
        assert "evil" not in shown

    def test_shows_what_is_owed_and_what_was_settled(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        convert(subscription)
        assert "Approved, not yet in a statement: 2.00 EUR" in see(client, partner)
        settlements.settle(partner, "EUR", NOW, reference="INV-7")
        seen = see(client, partner)
        assert "not settled yet" not in seen
        assert "INV-7" in seen

    def test_says_so_where_more_was_taken_back_than_earned(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        conversion = convert(subscription)
        settlements.settle(partner, "EUR", NOW)
        decisions.decide(Conversion.objects.get(pk=conversion.pk), Status.REJECTED, reason="Back")
        assert "To be deducted from the next statement: -2.00 EUR" in see(client, partner)

    def test_asks_the_database_as_often_whatever_there_is(
        self,
        client: Client,
        partner: Partner,
        subscription: Subscription,
        django_assert_num_queries: Any,
    ) -> None:
        for _ in range(10):
            adjustments.adjust(convert(subscription), payout=Decimal(1), reason="More")
        settlements.settle(partner, "EUR", NOW)
        CallbackFactory(conversion=convert(subscription))
        with django_assert_num_queries(QUERIES):
            client.get(link(partner))
        visitors = Visitor.objects.bulk_create(
            Visitor(partner=partner, entry_point="https://shop.example/") for _ in range(MANY_ROWS)
        )
        facts = {name: getattr(convert(subscription), name) for name in (
            "partner", "subscription", "trigger", "payout", "payout_currency", "decided_on",
        )}  # fmt: skip
        keys = list(Visitor.objects.filter(conversions=None).values_list("pk", flat=True))
        assert len(keys) == len(visitors)
        Conversion.objects.bulk_create(
            Conversion(visitor_id=key, dedupe_key=f"v:{key}", **facts) for key in keys
        )
        Settlement.objects.bulk_create(
            Settlement(partner=partner, currency="EUR", before=NOW, year=2026, year_number=number)
            for number in range(2, MANY_ROWS + 2)
        )
        Callback.objects.bulk_create(
            Callback(partner=partner, subscription=subscription, url="x") for _ in range(MANY_ROWS)
        )
        with django_assert_num_queries(QUERIES):
            client.get(link(partner))

    def test_writes_hostile_text_as_text(
        self, client: Client, subscription: Subscription, partner: Partner
    ) -> None:
        evil = "\u202e<script>alert(1)</script>"
        Partner.objects.update(name=evil)
        convert(
            subscription,
            trigger=evil,
            click_id=evil,
            reference=evil * 5,
            reason=evil,
            status=Status.PENDING,
        )
        shown = client.get(link(partner)).content.decode()
        assert "<script" not in shown
        # Each in a <bdi> of its own, which what is around it does not turn with.
        turned = re.findall(r"\u202e&lt;script&gt;alert\(1\)&lt;/script&gt;", shown)
        isolated = re.findall(
            r"<bdi[^>]*>\u202e&lt;script&gt;alert\(1\)&lt;/script&gt;</bdi>", shown
        )
        assert len(turned) - len(isolated) == 1  # in the title of the page
        assert len(isolated) == 4

    def test_has_no_style_or_script_of_its_own(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        """As `default-src 'self'` wants it."""
        convert(subscription)
        shown = client.get(link(partner)).content.decode()
        assert not re.search(r"<script|<style|\sstyle=|\son\w+=", shown)

    def test_speaks_the_readers_language(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        convert(subscription, payout=Decimal("1234.50"))
        locale = "django.middleware.locale.LocaleMiddleware"
        with override_settings(MIDDLEWARE=[locale, *django_settings.MIDDLEWARE]):
            response = client.get(link(partner), headers={"Accept-Language": "de"})
        assert re.search(r'<html lang="de"\s+dir="ltr">', response.content.decode())
        assert "1234,50 EUR" in text(response)

    def test_runs_from_right_to_left_where_the_language_does(
        self, client: Client, partner: Partner
    ) -> None:
        with override_settings(LANGUAGE_CODE="ar"):
            assert 'dir="rtl"' in client.get(link(partner)).content.decode()

    @pytest.mark.parametrize("use_tz", [True, False])
    def test_tells_the_time_with_and_without_time_zones(
        self, client: Client, partner: Partner, use_tz: bool
    ) -> None:
        with override_settings(USE_TZ=use_tz):
            assert "As of" in see(client, partner)

    def test_tells_all_times_where_the_site_is_as_its_days_are(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        night = NOW.replace(hour=0, minute=30, second=0)
        convert(subscription, created_on=night)
        with override("Pacific/Kiritimati"):
            page = see(client, partner)
            [row] = file(client.get(link(partner, "conversions.csv")))
        assert "(UTC)" in page
        assert f"{night:%m/%d/%Y} 12:30 a.m." in page
        assert row["Date"] == f"{night:%Y-%m-%d} 00:30:00"


class TestTheRevenue:
    @pytest.mark.parametrize("payout_type", ["fixed", "none"])
    def test_is_the_sum_of_amounts_that_are_shown(
        self, client: Client, partner: Partner, subscription: Subscription, payout_type: str
    ) -> None:
        convert(subscription)
        fixed = SubscriptionFactory(partner=partner, payout_type=payout_type)
        convert(fixed, amount=None, currency="")
        convert(fixed, status=Status.REJECTED)
        convert(fixed, created_on=NOW - timedelta(days=20))
        assert "Revenue, EUR 20.00 AOV, EUR 20.00" in see(client, partner, "?days=7")
        [*_days, today] = file(client.get(link(partner, "statistics.csv?days=7")))
        assert today["Revenue, EUR"] == today["AOV, EUR"] == "20.00"
        # In 30 days there is an order whose amount is not shown to the partner.
        assert "Revenue" not in see(client, partner)
        assert "AOV" not in see(client, partner)
        assert "Commission (approved), EUR" in see(client, partner)
        [*_days, today] = file(client.get(link(partner, "statistics.csv")))
        assert "Revenue, EUR" not in today
        assert today["Commission (approved), EUR"] == "4.00"

    def test_is_in_a_file_with_the_other_statistics(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        convert(subscription, status=Status.PENDING, decided_on=None)
        assert 'href="statistics.csv?days=90"' in client.get(link(partner, "?days=90")).text
        response = client.get(link(partner, "statistics.csv?days=90"))
        assert f"statistics-{partner.uid}-" in response["Content-Disposition"]
        rows = file(response)
        assert len(rows) == 13
        assert list(rows[0]) == [
            "Week",
            "Clicks",
            "Conversions",
            "Pending",
            "Rejected",
            "CR, %",
            "Revenue, EUR",
            "AOV, EUR",
            "Pending commission, EUR",
            "Commission (approved), EUR",
            "EPC, EUR",
        ]
        assert rows[-1]["Pending commission, EUR"] == "2.00"
        assert date.fromisoformat(rows[-1]["Week"]).weekday() == 0


class TestTheTerms:
    def test_are_shown_line_by_line(self, client: Client, partner: Partner) -> None:
        assert ">Terms<" not in client.get(link(partner)).text
        Partner.objects.update(terms="No <b>coupons</b>.\nPaid monthly.\n\nEnds any time.")
        page = client.get(link(partner)).text
        assert (
            "<p>No &lt;b&gt;coupons&lt;/b&gt;.<br>Paid monthly.</p>\n\n<p>Ends any time.</p>"
        ) in page


class TestTheClicks:
    def test_that_arrived_are_told_in_a_partners_words(
        self, client: Client, partner: Partner
    ) -> None:
        for _ in range(4):
            VisitorFactory(partner=partner)
        VisitorFactory(partner=partner, is_test=True)
        for number, reason in enumerate(
            (
                Reason.BOT,
                Reason.SUBRESOURCE,
                Reason.HEAD,
                Reason.PREFETCH,
                Reason.DUPLICATE_CLICK,
                Reason.NO_CONSENT,
                Reason.PARTNER_INACTIVE,
                Reason.REMOVED,
                Reason.AGENT,
            )
        ):
            FilteredClicks.objects.add(partner, reason, count=10 - number)
        FilteredClicks.objects.add(PartnerFactory(), Reason.BOT)
        FilteredClicks.objects.create(
            key="x", partner=partner, day=NOW.date(), reason="unheard_of", count=1
        )
        told = {
            "Arrived": "59",
            "Counted": "4",
            "Not opened as a page by a person, but for example by a bot or a link preview": "34",
            "The same visitor clicked the same link again": "6",
            "The visitor did not agree to tracking": "5",
            "Your tracking link was inactive": "4",
            "Removed after a check": "3",
            "Opened by an AI agent, not by a person": "2",
            "Other reasons": "1",
        }
        seen = see(client, partner)
        assert " ".join(f"{label} {count}" for label, count in told.items()) in seen
        for reason in (Reason.BOT, Reason.SUBRESOURCE, Reason.REMOVED):
            assert str(reason.label) not in seen.lower()

        response = client.get(link(partner, "clicks.csv"))
        assert f"clicks-{partner.uid}-" in response["Content-Disposition"]
        rows = {row["Result"]: row["Clicks"] for row in file(response)}
        assert rows == told
        assert list(rows) == list(told)

    def test_are_those_of_the_period(self, client: Client, partner: Partner) -> None:
        VisitorFactory(partner=partner, referred_on=NOW - timedelta(days=20))
        FilteredClicks.objects.add(partner, Reason.BOT, day=NOW.date() - timedelta(days=20))
        for days, count in ((7, "0"), (30, "2")):
            assert f"Arrived {count}" in see(client, partner, f"?days={days}")
            first, *_rest = file(client.get(link(partner, f"clicks.csv?days={days}")))
            assert first == {"Result": "Arrived", "Clicks": count}


class TestTheFileOfConversions:
    def test_has_what_a_partner_needs_to_reckon_for_themselves(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        conversion = convert(subscription, click_id="c-42", sub1="mail", reference="order-1234")
        adjustments.adjust(conversion, payout=Decimal("-0.50"), reason="One sent back")
        response = client.get(link(partner, "conversions.csv"))
        past = Period.past(30)
        period = f"{past.first}-{past.last}"
        assert (
            f'filename="conversions-{partner.uid}-{period}.csv"'
            in (response["Content-Disposition"])
        )
        [row] = file(response)
        assert row.pop("Date") == f"{conversion.created_on:%Y-%m-%d %H:%M:%S}"
        assert row == {
            "Trigger": "Order placed",
            "Reference": "…1234",
            "Click id": "c-42",
            "Sub id 1": "mail",
            "Sub id 2": "",
            "Sub id 3": "",
            "Sub id 4": "",
            "Sub id 5": "",
            "Amount": "20.00",
            "Currency": "EUR",
            "Payout": "1.50",
            "Payout currency": "EUR",
            "Status": "approved",
            "Reason": "",
            "Adjustment": "-0.50",
            "Adjustment reason": "One sent back",
        }

    def test_comes_from_every_kind_of_server(
        self, browser: Browser, partner: Partner, subscription: Subscription
    ) -> None:
        convert(subscription, click_id="c-42")
        assert b"c-42" in browser.get(link(partner, "conversions.csv")).body

    def test_has_no_formula(
        self, client: Client, partner: Partner, subscription: Subscription
    ) -> None:
        convert(subscription, click_id="=1+1")
        [row] = file(client.get(link(partner, "conversions.csv")))
        assert row["Click id"] == "'=1+1"


class TestTheStatement:
    @pytest.fixture
    def settlement(self, partner: Partner, subscription: Subscription) -> Settlement:
        conversion = convert(subscription, click_id="c-42", reference="order-1234")
        adjustments.adjust(conversion, payout=Decimal("-0.50"), reason="One sent back")
        settled = settlements.settle(partner, "EUR", datetime.now(timezone.utc), reference="INV-7")
        assert settled is not None
        return settled

    def test_shows_what_was_settled_line_by_line(
        self, client: Client, partner: Partner, settlement: Settlement
    ) -> None:
        seen = see(client, partner, f"settlements/{settlement.pk}/")
        assert "INV-7" in seen
        assert "1 conversion 2.00 EUR 1 adjustment -0.50 EUR Total 1.50 EUR" in seen
        assert "Order placed …1234 c-42 20.00 EUR 2.00 EUR" in seen
        assert "Adjustment: payout changed One sent back" in seen
        assert "Here are the first" not in seen

    def test_is_a_file_as_well(
        self, browser: Browser, partner: Partner, settlement: Settlement
    ) -> None:
        answer = browser.get(link(partner, f"settlements/{settlement.pk}/statement.csv"))
        rows = list(csv.DictReader(io.StringIO(answer.body.decode("utf-8-sig"), newline="")))
        assert [(row["Description"], row["Payout"], row["Reason"]) for row in rows] == [
            ("Conversion", "2.00", ""),
            ("Adjustment: payout changed", "-0.50", "One sent back"),
        ]
        assert rows[0]["Reference"] == "…1234"
        assert rows[0]["Amount"] == "20.00"
        assert "is_adjustment" not in answer.body.decode()
        name = f"statement-{settlement.serial_number}-{settlement.reference}-{partner.uid}.csv"
        assert answer["Content-Disposition"].decode() == f'attachment; filename="{name}"'

    def test_is_reached_from_the_page_and_leads_back(
        self, client: Client, partner: Partner, settlement: Settlement
    ) -> None:
        assert f'href="settlements/{settlement.pk}/"' in client.get(link(partner)).content.decode()
        shown = client.get(link(partner, f"settlements/{settlement.pk}/")).content.decode()
        assert 'href="../../"' in shown
        assert 'href="statement.csv"' in shown

    def test_of_another_partner_is_not_there(
        self, client: Client, partner: Partner, settlement: Settlement
    ) -> None:
        other = PartnerFactory()
        other.replace_page_link()
        for rest in ("", "statement.csv"):
            response = client.get(link(other, f"settlements/{settlement.pk}/{rest}"))
            assert response.status_code == 404

    @pytest.mark.parametrize("number", ["0", "-1", "x", "9" * 30, "9" * 18, "1.5", "%00", "%C2%B2"])
    def test_that_is_none_is_not_there(self, client: Client, partner: Partner, number: str) -> None:
        assert client.get(link(partner, f"settlements/{number}/")).status_code == 404

    def test_shows_the_first_lines_of_a_long_one(
        self,
        client: Client,
        partner: Partner,
        subscription: Subscription,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("affiliations.partner_pages.views.LINES", 2)
        for number in range(3):
            convert(subscription, click_id=f"click-{number}")
        settled = settlements.settle(partner, "EUR", NOW)
        assert settled is not None
        seen = see(client, partner, f"settlements/{settled.pk}/")
        assert "Showing the first 2 of 3 lines." in seen
        assert "click-1" in seen
        assert "click-2" not in seen
        rows = file(client.get(link(partner, f"settlements/{settled.pk}/statement.csv")))
        assert len(rows) == 3

    def test_asks_the_database_as_often_whatever_is_in_it(
        self,
        client: Client,
        partner: Partner,
        subscription: Subscription,
        settlement: Settlement,
        django_assert_num_queries: Any,
    ) -> None:
        path = link(partner, f"settlements/{settlement.pk}/")
        with django_assert_num_queries(4):
            client.get(path)
        for _ in range(10):
            adjustments.adjust(convert(subscription), payout=Decimal(1), reason="More")
        Conversion.objects.update(settlement=settlement)
        settlement.adjustments.model.objects.update(settlement=settlement)
        with django_assert_num_queries(4):
            client.get(path)
