"""The last filtered clicks: what is kept of each, for how long, and where staff find it."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from affiliations.exceptions import Reason
from affiliations.models import FilteredClicks, Partner, RecentFilteredClick, clicks
from affiliations.models.clicks import KEPT_CLICKS
from affiliations.tracking import register_visitor
from tests.arrivals import commit
from tests.browsers import FIREFOX, HANDLERS, Browser
from tests.factories import PartnerFactory, VisitorFactory
from tests.test_admin import allowed, shown, url
from tests.test_filtered_clicks import REASONS, arrive
from tests.test_races import MANY, at_once

pytestmark = [pytest.mark.django_db]

on_site = pytest.mark.urls("tests.test_middleware")


@pytest.fixture(params=HANDLERS)
def browser(request: pytest.FixtureRequest) -> Browser:
    return request.param()


def kept() -> list[RecentFilteredClick]:
    commit()
    return list(RecentFilteredClick.objects.order_by("pk"))


def keep(count: int, partner: Partner | None = None, **fields: Any) -> list[RecentFilteredClick]:
    values = {"reason": "bot", "uid": "abc"} | fields
    rows = [RecentFilteredClick(partner=partner, **values) for _ in range(count)]
    RecentFilteredClick.objects.bulk_create(rows)
    return list(RecentFilteredClick.objects.order_by("pk"))


@on_site
@pytest.mark.parametrize("reason", REASONS)
def test_each_is_kept_with_time_uid_reason_and_browser(
    browser, partner, settings, reason: Reason
) -> None:
    browser.headers["User-Agent"] = FIREFOX
    before = timezone.now()
    whose = arrive(browser, reason, partner, settings)

    (click,) = kept()
    assert (click.partner, click.reason) == (whose, reason.value)
    assert click.uid == (whose.uid if whose else "unknown1")
    assert click.browser == ("" if reason in (Reason.BOT, Reason.AGENT) else "Firefox")
    assert before <= click.clicked_on <= timezone.now()
    assert str(click) == f"{click.uid}: {Reason.display(reason.value)}"


@on_site
@pytest.mark.parametrize(
    ("given", "uid"),
    [
        ("", ""),
        ("moox6e", "moox6e"),
        ("MOOX%20+6", "MOOX  6"),
        ("x" * 101, "x" * 100),
        ("%00%01", r"\x00\x01"),
        ("a%0D%0Ab", r"a\r\nb"),
        ("%E2%80%AEabc", r"\u202eabc"),
        ("%E2%80%8Bmoox6esi", r"\u200bmoox6esi"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("%FF%C3x", "\ufffd\ufffdx"),
        ("%F0%9F%98%80", "😀"),
        ("anna@shop.example", "(redacted)"),
        ("anna%40b%FCcher.de", "(redacted)"),
        ("moox6es%3Futm%3D1%26email%3Danna%40shop.example", "moox6es?utm=1&(redacted)"),
        ("moox6es%3Ftoken%3Dabc%26x%3D1", "moox6es?(redacted)&x=1"),
        ("x" * 95 + "anna@shop.example", "(redacted)"),
        ("x" * 2_000 + "@shop.example", "x" * 100),
        ("x" * 30_000, "x" * 100),
    ],
)
def test_a_uid_of_no_partner_is_kept_as_it_was_but_harmless(browser, given: str, uid: str) -> None:
    answer = browser.get(f"/?affiliate_id={given}")

    assert answer.status == 302
    assert [click.uid for click in kept()] == [uid]


@on_site
def test_a_link_that_is_given_later_is_kept_too(rf) -> None:
    register_visitor(rf.get("/"), "/?affiliate_id=unknown1")

    assert [(click.uid, click.reason) for click in kept()] == [("unknown1", "unknown_partner")]


@on_site
def test_a_test_link_is_not_among_them(browser, partner) -> None:
    partner.active = False
    partner.save()
    browser.get(partner.test_link("/"))

    assert kept() == []


def test_the_oldest_make_room(monkeypatch) -> None:
    rows = keep(KEPT_CLICKS + 20)
    monkeypatch.setattr(random, "randrange", lambda stop: 0)
    RecentFilteredClick.objects.add(None, Reason.BOT, "last", "")

    left = kept()
    assert len(left) == KEPT_CLICKS
    assert left[:-1] == rows[21:]
    assert left[-1].uid == "last"


def test_few_are_all_kept(monkeypatch) -> None:
    monkeypatch.setattr(random, "randrange", lambda stop: 0)
    for number in range(3):
        RecentFilteredClick.objects.add(None, Reason.BOT, str(number), "")

    assert [click.uid for click in kept()] == ["0", "1", "2"]


def test_a_flood_stays_bounded_and_costs_little_more_than_one_statement_each(monkeypatch) -> None:
    monkeypatch.setattr(clicks, "_CLICKS_PER_TRIM", 100)
    monkeypatch.setattr(random, "randrange", random.Random(7).randrange)
    keep(KEPT_CLICKS)
    with CaptureQueriesContext(connection) as captured:
        for number in range(500):
            RecentFilteredClick.objects.add(None, Reason.BOT, str(number), "")

    assert KEPT_CLICKS <= RecentFilteredClick.objects.count() < KEPT_CLICKS + 500
    statements = [query["sql"].split()[0] for query in captured]
    assert statements.count("INSERT") == 500
    assert set(statements) == {"INSERT", "SELECT", "DELETE"}
    assert len(statements) < 500 * 1.05
    RecentFilteredClick.objects.trim()
    assert [click.uid for click in kept()][-500:] == [str(number) for number in range(500)]


@pytest.mark.django_db(transaction=True)
def test_many_at_the_same_moment_are_all_kept(partner, monkeypatch) -> None:
    """Also if each of them removes the oldest."""
    monkeypatch.setattr(random, "randrange", lambda stop: 0)
    keep(KEPT_CLICKS)
    at_once(*[lambda: RecentFilteredClick.objects.add(partner, Reason.BOT, "new", "")] * MANY)
    RecentFilteredClick.objects.trim()

    left = kept()
    assert len(left) == KEPT_CLICKS
    assert [click.uid for click in left[-MANY:]] == ["new"] * MANY


@on_site
@pytest.mark.django_db(transaction=True)
def test_a_failure_is_logged_and_the_click_still_counts(browser, monkeypatch, caplog) -> None:
    def broken(*args: Any) -> None:
        raise DatabaseError("no such luck")

    monkeypatch.setattr(RecentFilteredClick.objects, "add", broken)
    assert browser.get("/?affiliate_id=unknown1").status == 302

    assert "no such luck" in caplog.text
    assert FilteredClicks.objects.get().count == 1


def test_they_outlive_their_partner() -> None:
    partner = PartnerFactory()
    keep(1, partner, uid=partner.uid)
    partner.delete()

    (click,) = kept()
    assert (click.partner, click.uid) == (None, partner.uid)


@pytest.mark.parametrize("options", [{}, {"days": 30}, {"visitors_older_than": 400}])
def test_a_purge_removes_those_of_long_ago(options: dict[str, int]) -> None:
    keep(1, uid="old", clicked_on=timezone.now() - timedelta(days=91))
    keep(1, uid="new", clicked_on=timezone.now() - timedelta(days=89))
    call_command("purge_affiliations", dry_run=True, **options)
    assert len(kept()) == 2
    call_command("purge_affiliations", **options)

    assert [click.uid for click in kept()] == ["new"]


# Where staff find them.


def found(client: Any, **query: str) -> list[str]:
    page = client.get(url(RecentFilteredClick), query)
    assert page.status_code == 200
    return [click.uid for click in page.context["cl"].result_list]


@pytest.mark.parametrize(
    ("term", "uids"),
    [
        ("moox6es", ["moox6es"]),
        ("MOOX", ["moox6es"]),
        (" oox6 ", ["moox6es"]),
        ("https://shop.example/a/?x=1&affiliate_id=moox6es&y=2", ["moox6es"]),
        ("anna@shop.example", ["(redacted)"]),
        ("\u202eabc", [r"\u202eabc"]),
        ("😀", []),
        ("a\0", ["(redacted)", r"\u202eabc", "moox6es"]),  # which Django's form refuses
        ("", ["(redacted)", r"\u202eabc", "moox6es"]),
        ("y" * 5_000, []),
    ],
)
def test_a_uid_that_no_partner_has_is_found(staff, term: str, uids: list[str]) -> None:
    for uid in ("moox6es", r"\u202eabc", "(redacted)"):
        keep(1, uid=uid, reason="unknown_partner")

    assert found(staff, q=term) == uids


def test_the_list_is_filtered_by_reason_partner_and_day(staff, partner) -> None:
    keep(1, partner, uid="one", reason="head")
    keep(1, uid="two", reason="unknown_partner", clicked_on=timezone.now() - timedelta(days=9))
    yesterday = str(timezone.localdate() - timedelta(days=1))

    assert found(staff) == ["two", "one"]
    assert found(staff, reason="head") == found(staff, partner=partner.uid) == ["one"]
    assert found(staff, since=yesterday) == ["one"]
    assert found(staff, until=yesterday) == ["two"]
    assert found(staff, reason="gone") == []
    text = shown(staff.get(url(RecentFilteredClick)))
    assert "Unknown partner id" in text
    assert "Headers only (HEAD request)" in text


def test_a_hostile_uid_is_text_on_the_page_and_in_the_file(staff) -> None:
    keep(1, uid="<script>alert(1)</script>")
    keep(1, uid="=cmd|'/c calc'!A0")

    page = staff.get(url(RecentFilteredClick)).text
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert(1)" not in page
    file = b"".join(staff.get(url(RecentFilteredClick, "csv")).streaming_content).decode()
    assert ",'=cmd|" in file or ",\"'=cmd|" in file


def test_the_list_costs_as_many_queries_for_many(staff, partner, django_assert_max_num_queries):
    keep(60, partner)
    staff.get(url(RecentFilteredClick))
    with django_assert_max_num_queries(9):
        staff.get(url(RecentFilteredClick))


def test_nobody_adds_changes_or_deletes_them(staff) -> None:
    (click,) = keep(1)

    assert staff.get(url(RecentFilteredClick, "add")).status_code == 403
    assert staff.post(url(click, "delete"), {"post": "yes"}).status_code == 403
    assert "_save" not in staff.get(url(click)).text
    assert kept() == [click]


PERMISSION = "view_recentfilteredclick"


def test_the_permission_to_view_them_is_their_own() -> None:
    keep(1)

    assert allowed("view_visitor").get(url(RecentFilteredClick)).status_code == 403
    assert found(allowed(PERMISSION)) == ["abc"]


@pytest.mark.parametrize("may_view", [True, False])
def test_the_page_of_a_partner_shows_the_latest(partner, may_view: bool) -> None:
    FilteredClicks.objects.add(partner, Reason.HEAD)
    keep(7, partner, reason="head", browser="Firefox", uid=partner.uid)
    keep(1, PartnerFactory(), reason="head", browser="Opera")
    keep(1, partner, browser="Edge", clicked_on=timezone.now() - timedelta(days=40))
    client = allowed("view_partner", *([PERMISSION] if may_view else []))

    page = client.get(url(partner, "callbacks"))
    text = shown(page)
    assert ("Latest filtered clicks" in text) == may_view
    assert text.count("Firefox") == (5 if may_view else 0)
    assert "Opera" not in text
    assert "Edge" not in text
    link = f"{url(RecentFilteredClick)}?reason=head&amp;partner={partner.uid}&amp;since="
    assert (f'href="{link}' in page.text) == may_view
    if may_view:
        assert len(found(client, partner=partner.uid, reason="head")) == 7


@pytest.mark.parametrize("may_view", [True, False])
def test_the_report_links_the_clicks_of_a_reason(partner, may_view: bool) -> None:
    FilteredClicks.objects.add(None, Reason.UNKNOWN_PARTNER)
    FilteredClicks.objects.add(partner, Reason.HEAD)
    keep(1, uid="moox6es", reason="unknown_partner")
    client = allowed("view_report", *([PERMISSION] if may_view else []))
    day = str(timezone.localdate())
    report = "/admin/affiliations/report/"

    text = client.get(report, {"since": day, "until": day}).text
    link = f"{url(RecentFilteredClick)}?reason=unknown_partner&amp;since={day}&amp;until={day}"
    assert (f'href="{link}"' in text) == may_view
    text = client.get(report, {"since": day, "until": day, "partner": partner.uid}).text
    link = f"?reason=head&amp;since={day}&amp;until={day}&amp;partner={partner.uid}"
    assert (link in text) == may_view
    if may_view:
        assert found(client, reason="unknown_partner", since=day, until=day) == ["moox6es"]


def test_a_partner_without_visitors_can_still_be_deleted(staff) -> None:
    partner = PartnerFactory()
    keep(1, partner)
    staff.post(url(partner, "delete"), {"post": "yes"})

    assert not Partner.objects.filter(pk=partner.pk).exists()
    assert VisitorFactory().partner != partner
