"""A list is filtered and sorted by what it offers only, whatever its address says."""

from __future__ import annotations

from datetime import timedelta
from itertools import cycle
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.admin.sites import AdminSite
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import path, reverse
from django.utils import timezone

from affiliations.admin.base import ListAdmin
from affiliations.admin.visitors import VisitorAdmin
from affiliations.dates import today
from affiliations.models import (
    Adjustment,
    Callback,
    CallbackAttempt,
    Conversion,
    Overview,
    Partner,
    Report,
    Settlement,
    Subscription,
    Visitor,
)
from tests.factories import (
    CallbackFactory,
    SubscriptionFactory,
    VisitorFactory,
)
from tests.test_admin import HUGE, shown, url
from tests.test_admin_permissions import looking, some_of_all_pages
from tests.test_admin_visitors import table
from tests.urls import urlpatterns as usual

pytestmark = pytest.mark.django_db

LISTS = [
    model for model in admin.site._registry
    if model._meta.app_label == "affiliations" and model not in (Overview, Report)
]  # fmt: skip
LOOKUPS = ["", "__exact", "__startswith", "__regex", "__gt", "__in", "__range", "__isnull"]
#: Values that match every row, none, and nothing that a column could hold.
VALUES = ["", "1", "0", "w", "^whsec_[a-m]", "(a+)+$", "2026-01-01", "\0", HUGE, "a,b"]


def columns(model: Any) -> list[str]:
    fields = model._meta.concrete_fields
    return sorted({"pk"}.union(*({field.name, field.attname} for field in fields)))


def lookups(model: Any) -> list[str]:
    """Return two lookups of each column of a model, and one of each that a row refers to."""
    found = [
        f"{name}{lookup}"
        for name, other in zip(columns(model), cycle(LOOKUPS))
        for lookup in dict.fromkeys(("__regex", other))
    ]
    found += [field.name for field in model._meta.related_objects]
    for field in model._meta.concrete_fields:
        if field.is_relation:
            paths = [f"{field.name}__{name}" for name in columns(field.related_model)]
            found += map("".join, zip(paths, cycle(LOOKUPS)))
    return found


def offered(client: Client, model: Any) -> set[str]:
    """Return the parameters of the filters of a list."""
    specs = client.get(url(model)).context["cl"].filter_specs
    return {name for spec in specs for name in spec.expected_parameters()}


def numbers(page: Any) -> list[int]:
    assert page.status_code == 200
    return [row.pk for row in page.context["cl"].result_list]


def test_every_list_of_ours_is_one_of_those_that_are_tested() -> None:
    assert len(LISTS) == 10
    assert all(isinstance(admin.site._registry[model], ListAdmin) for model in LISTS)


@pytest.mark.slow
@pytest.mark.parametrize("model", LISTS)
def test_no_column_answers_who_may_only_look(model: Any) -> None:
    some_of_all_pages()
    client = looking()
    filters = offered(client, model)
    names = [name for name in lookups(model) if name not in filters]
    with CaptureQueriesContext(connection) as captured:
        for name, value in zip(names, cycle(VALUES)):
            answer = client.get(url(model), {name: value})
            assert (answer.status_code, answer["Location"]) == (302, f"{url(model)}?e=1"), name
    assert not any("REGEX" in one["sql"].upper() for one in captured)
    assert len(captured) < 8 * len(names)


@pytest.mark.parametrize("value", ["^whsec_", "^$"])
def test_a_signing_secret_is_not_asked_of_any_list(value: str) -> None:
    """With a value that fits and one that does not: what the issue has read letter by letter."""
    some_of_all_pages()
    client = looking()
    for model in LISTS:
        for before in ("", "partner__", "visitor__partner__", "callback__partner__",
                       "subscription__partner__", "conversion__partner__"):  # fmt: skip
            for name in ("signing_secret", "previous_signing_secret", "page_key"):
                answer = client.get(url(model), {f"{before}{name}__regex": value})
                assert (answer.status_code, answer["Location"]) == (302, f"{url(model)}?e=1")


@pytest.mark.parametrize("model", [one for one in LISTS if one not in (Partner, Subscription)])
def test_no_file_is_filtered_by_a_column_either(model: Any) -> None:
    some_of_all_pages()
    client = looking()
    for name in ("pk", "id__gte", "partner__signing_secret__regex", "window"):
        answer = client.get(url(model, "csv"), {name: "1"})
        assert (answer.status_code, answer["Location"]) == (302, f"{url(model, 'csv')}?"), name


NOT_OFFERED: list[dict[str, str]] = [
    {"window": "x"},
    {"id__range": "1"},
    {"id__in": "a"},
    {"pk": "1"},
    {"pk__regex": "1"},
    {"": "1"},
    {"__": "1"},
    {"__exact": "1"},
    {"\0": "\0"},
    {"id__\0": "1"},
    {"é": "💥"},
    {"nonsense": ""},
    {"utm_source": "mail"},
    {"_to_field": "signing_secret"},
    {"_popup": "1", "_to_field": "click_id"},
    {"_popup": "1", "partner__signing_secret__startswith": "w"},
    {"_to_field": "visitor__partner__signing_secret"},
    {"q": "x", "signing_secret__regex": "x"},
    {"o": "1", "user__password__startswith": "x"},
    {"x" * 5000: "1"},
    {"__".join(["partner", "visitors"] * 200): "1"},
]


@pytest.mark.parametrize("model", LISTS)
def test_whatever_a_list_does_not_offer_leads_back_to_it(model: Any) -> None:
    some_of_all_pages()
    client = looking()
    for query in NOT_OFFERED:
        answer = client.get(url(model), query)
        assert (answer.status_code, answer["Location"]) == (302, f"{url(model)}?e=1"), query
    assert numbers(client.get(answer["Location"])) == numbers(client.get(url(model)))


@pytest.mark.slow
@pytest.mark.parametrize("model", LISTS)
def test_no_value_of_an_offered_filter_breaks_a_list(model: Any) -> None:
    some_of_all_pages()
    client = looking()
    for name in sorted(offered(client, model)):
        for value in (*VALUES[4:], "x" * 5000, "²", "💥"):
            query = {name: [value, "1"] if value == "x" * 5000 else value}
            assert client.get(url(model), query).status_code in (200, 302), query


@pytest.mark.parametrize("model", LISTS)
def test_a_list_is_sorted_by_the_columns_that_say_so_only(model: Any) -> None:
    """A sort by another column may take long, since no index helps."""
    some_of_all_pages()
    client = looking()
    listed = client.get(url(model)).context["cl"]
    for number, name in enumerate(listed.list_display):
        order = client.get(url(model), {"o": str(number)}).context["cl"].queryset.query.order_by
        if name not in listed.sortable_by:
            assert not {one.lstrip("-") for one in map(str, order)} - {"pk"}, name


@pytest.mark.parametrize("field", ["visitor", "conversion", "subscription", "partner", "user",
                                   "nonsense", "\0", "signing_secret"])  # fmt: skip
def test_the_choices_of_a_form_are_searched_and_nothing_else(field: str) -> None:
    some_of_all_pages()
    partner = Partner.objects.get()
    query = {"app_label": "affiliations", "field_name": field, "term": partner.signing_secret[:9]}
    for model in (*LISTS, Report):
        for more in ({}, {"signing_secret__regex": ".", "to_field": "signing_secret"}):
            model_name = {"model_name": model._meta.model_name}
            answer = looking().get(reverse("admin:autocomplete"), query | model_name | more)
            assert answer.status_code in (200, 403, 404)
            assert partner.signing_secret not in answer.text
            assert answer.status_code != 200 or answer.json()["results"] == []


@pytest.mark.parametrize(
    ("model", "date"),
    [
        (Visitor, "-referred_on"),
        (Conversion, "-created_on"),
        (Callback, "-created_on"),
        (CallbackAttempt, "-started_on"),
        (Settlement, "-created_on"),
        (Adjustment, "-created_on"),
        # Its period is that of the statistics.
        (Partner, "name"),
    ],
)
def test_a_list_is_sorted_by_the_date_that_filters_it(model: Any, date: str, staff: Client) -> None:
    """Sorted by key, all rows from the newest to that day would be read."""

    def first(**asked: str) -> str:
        order_by: Any = staff.get(url(model), asked).context["cl"].queryset.query.order_by
        return str(order_by[0])

    assert first(since="2026-01-01") == first(until="2026-12-31") == date
    assert first() == first(since="", until="") == ("name" if model is Partner else "-pk")
    if model in (Conversion, Callback):
        assert first(since="2026-01-01", o="1") == "pk"


def test_the_rows_of_a_day_are_the_newest_first(staff: Client) -> None:
    now = timezone.now()
    days = [3, 1, 2]
    rows = [VisitorFactory(referred_on=now - timedelta(days=count)) for count in days]
    since = today() - timedelta(days=2)
    assert numbers(staff.get(url(Visitor), {"since": since})) == [rows[1].pk, rows[2].pk]
    assert numbers(staff.get(url(Visitor))) == [row.pk for row in reversed(rows)]


# What the pages link


def test_the_page_of_a_subscription_links_its_callbacks(staff: Client) -> None:
    mine, others = CallbackFactory(), CallbackFactory()
    both = SubscriptionFactory(partner=mine.partner, trigger="User registered")
    CallbackFactory(conversion=others.conversion, subscription=both, partner=mine.partner)
    address = f"{url(Callback)}?subscription={mine.subscription_id}"
    assert f'href="{address}"' in staff.get(url(mine.subscription)).text
    page = staff.get(address)
    assert numbers(page) == [mine.pk]
    # It can be seen, and removed.
    assert f"By subscription All {mine.partner}: Order placed" in shown(page)
    assert "By subscription" not in shown(staff.get(url(Callback)))
    assert len(table(staff.get(f"{url(Callback, 'csv')}?subscription={mine.subscription_id}"))) == 2


@pytest.mark.parametrize("value", ["", "0", "abc", "\0", HUGE, "-1", "1.0"])
def test_a_subscription_that_is_not_there_leads_back_to_the_list(value: str, staff: Client) -> None:
    answer = staff.get(url(Callback), {"subscription": value})
    assert (answer.status_code, answer["Location"]) == (302, f"{url(Callback)}?e=1")


@pytest.mark.slow
def test_every_link_between_our_pages_is_answered(staff: Client) -> None:
    """Whatever a page links with parameters, to a list or within it."""
    rows = some_of_all_pages()
    pages = [*(url(row) for row in rows.values()), *(url(model) for model in LISTS), url(Report)]
    seen = set()
    for page in pages:
        text = staff.get(page).text
        for part in text.split('href="')[1:]:
            link = part[: part.index('"')].replace("&amp;", "&")
            if "?" in link and not link.startswith("http"):
                target = link if link.startswith("/") else f"{page}{link}"
                if target not in seen:
                    assert staff.get(target).status_code == 200, (page, link)
                    seen.add(target)
    for link in ("?partner=", "?subscription=", "?review=needed", "status__exact=", "since="):
        assert any(link in target for target in seen), link


def test_filtering_by_a_subscription_costs_two_queries_more_at_any_length(staff: Client) -> None:
    callback = CallbackFactory()
    counts = []
    for query in ({}, {"subscription": callback.subscription_id}):
        with CaptureQueriesContext(connection) as captured:
            staff.get(url(Callback), query)
        counts.append(len(captured))
    assert counts[1] <= counts[0] + 2


# What a host adds


class HostVisitorAdmin(VisitorAdmin):
    """A host's own list, which offers more than ours."""

    list_filter = [*VisitorAdmin.list_filter, "partner__active"]
    date_hierarchy = "referred_on"


site = AdminSite("host")
site.register(Visitor, HostVisitorAdmin)
urlpatterns = [*usual, path("host/", site.urls)]


@pytest.mark.urls(__name__)
class TestAHostsOwnList:
    address = "/host/affiliations/visitor/"

    def test_is_filtered_by_what_the_host_offers(self, staff: Client) -> None:
        visitor = VisitorFactory()
        VisitorFactory(partner__active=False)
        query = {"partner__active__exact": "1"}
        assert numbers(staff.get(self.address, query)) == [visitor.pk]
        assert staff.get(self.address, {"partner__name__exact": "1"}).status_code == 302

    def test_is_filtered_by_the_days_of_its_date_hierarchy(self, staff: Client) -> None:
        visitor = VisitorFactory()
        now = timezone.now()
        query = {"referred_on__year": now.year, "referred_on__month": now.month}
        assert numbers(staff.get(self.address, query)) == [visitor.pk]
        assert numbers(staff.get(self.address, {"referred_on__year": now.year - 1})) == []
        for bent in ({"referred_on__year": "x"}, {"referred_on__day": "1"}, {"referred_on": "1"},
                     {"referred_on__gte": "x"}, {"referred_on__regex": "1"}):  # fmt: skip
            answer = staff.get(self.address, bent)
            assert (answer.status_code, answer["Location"]) == (302, f"{self.address}?e=1")

    @pytest.mark.parametrize("is_callable", [True, False])
    def test_is_filtered_by_the_limit_of_a_raw_id_field(
        self, is_callable: bool, staff: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As Django's popup is, and by no other value."""
        visitor = VisitorFactory()
        VisitorFactory(click_id="x")
        limit = {"click_id__exact": "", "partner__active": True}
        limits = [(lambda: limit) if is_callable else limit]
        monkeypatch.setattr(Visitor._meta, "related_fkey_lookups", limits)
        popup = {"click_id__exact": "", "partner__active": "1", "_popup": "1", "_to_field": "id"}
        assert numbers(staff.get(self.address, popup)) == [visitor.pk]
        for bent in ({"click_id__exact": "x"}, {"click_id__exact": ["", "x"]}):
            assert staff.get(self.address, popup | bent).status_code == 302


# Our own pages

BENT = ["", "\0", "abc", HUGE, "-1", "x" * 5000, "💥", "<script>alert(1)</script>", "²", "%00",
        "{click_id}", "//evil.example", "[", "2026-13-45", "0001-01-01", "9999-12-31"]  # fmt: skip
NAMES = ["period", "since", "until", "interval", "dimension", "partner", "trigger", "sub", "label",
         "rows", "currency", "page", "click_id", "sub1", "url", "method", "days", "settlements",
         "p", "q", "o", "e", "action", "lowest", "signing_secret__regex", "_popup", "_to_field",
         "_changelist_filters", "next"]  # fmt: skip


def pages(partner: Partner) -> list[str]:
    subscription = partner.subscriptions.first()
    settlement = Settlement.objects.get()
    partner.replace_page_link()
    own = partner.page_link()
    return [
        url(Report),
        url(Report, "csv"),
        url(Settlement, "add"),
        url(settlement, "statement"),
        url(settlement, "download"),
        url(partner),
        url(partner, "link"),
        url(partner, "test_link"),
        url(partner, "settle"),
        url(partner, "credit"),
        url(partner, "history"),
        url(subscription),
        url(subscription, "send_test"),
        reverse("admin:affiliations_subscription_preview"),
        str(own),
        f"{own}conversions.csv",
        f"{own}settlements/{settlement.pk}/",
    ]


@pytest.mark.slow
def test_no_parameter_of_our_own_pages_breaks_them(staff: Client) -> None:
    partner = some_of_all_pages()[Partner]
    for page in pages(partner):
        queries: list[dict[str, Any]] = [dict.fromkeys(NAMES[:-3], value[:99]) for value in BENT]
        queries += [{name: value} for name, value in zip(NAMES[::2], cycle(BENT))]
        for query in queries:
            answer = staff.get(page, query)
            # Django itself refuses a popup for a field that nothing refers to.
            refused = answer.status_code == 400 and "_to_field" in query
            assert refused or answer.status_code in (200, 302, 404), (page, query)
            text = b"".join(answer).decode() if answer.streaming else answer.text
            assert "<script>alert(1)" not in text, (page, query)
            assert partner.signing_secret not in text


def test_no_two_parameters_of_a_statement_break_it(staff: Client) -> None:
    partner = some_of_all_pages()[Partner]
    for value in BENT:
        for query in (
            {"partner": partner.pk, "currency": value},
            {"partner": partner.pk, "currency": "EUR", "until": value},
            {"partner": value, "currency": "EUR", "until": ""},
        ):
            assert staff.get(url(Settlement, "add"), query).status_code in (200, 302), query


@pytest.mark.parametrize("name", ["id__in", "window", "signing_secret__regex", "id__range"])
def test_an_action_on_a_bent_list_does_nothing(name: str, staff: Client) -> None:
    callback = CallbackFactory()
    form = {"action": "cancel_selected", "_selected_action": callback.pk, "confirmed": "yes",
            "reason": "x", "select_across": "1"}  # fmt: skip
    answer = staff.post(f"{url(Callback)}?{name}=a", form)
    assert (answer.status_code, answer["Location"]) == (302, f"{url(Callback)}?e=1")
    callback.refresh_from_db()
    assert callback.status == "queued"
    assert not LogEntry.objects.exists()
