"""The database of a real 0.12 site, migrated to today's tables and then served."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection
from django.db.models import F
from django.db.models.expressions import DatabaseDefault
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoDbBlocker
from standardwebhooks import Webhook

from affiliations.callbacks import worker
from affiliations.callbacks.test_callback import send_test_callback
from affiliations.models import Callback, Conversion, Partner, Subscription, Visitor
from tests import arrivals, old_site
from tests.factories import PartnerFactory, SubscriptionFactory, UserFactory, VisitorFactory
from tests.old_site import COLUMNS, EXPECTED, LONGEST, OURS, RunningProcess, Tables, user_key
from tests.raw_partner import RawPartner
from tests.testapp.models import Order

pytestmark = [pytest.mark.django_db, pytest.mark.transaction]


@pytest.fixture(scope="module", autouse=True)
def before(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Tables]:
    """Migrate the site of 0.12, and remember every row as it was before."""
    with django_db_blocker.unblock(), old_site.empty_database():
        old_site.make()
        before = old_site.everything()
        call_command("migrate", verbosity=0)
        yield before


@pytest.fixture
def client() -> Client:
    return Client()


def moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


# Every row


def test_every_row_of_every_table_is_there_as_it_was(before: Tables) -> None:
    after = old_site.read({table: columns for table, (columns, _) in before.items()})
    # Django itself adds what is new since 1.11.
    for table in ("django_migrations", "django_content_type", "auth_permission"):
        missing = set(before.pop(table)[1]) - set(after.pop(table)[1])
        assert missing == set(), table
    assert after == before
    assert len(before["affiliations_visitor"][1]) == EXPECTED["counts"]["visitors"] == 50
    assert set(OURS) <= set(before)


def test_partners_are_who_they_were() -> None:
    assert [
        {"id": partner.pk, "uid": partner.uid, "name": partner.name, "active": partner.active}
        for partner in Partner.objects.order_by("pk")
    ] == EXPECTED["partners"]
    # Nobody knows when they were made.
    assert not Partner.objects.exclude(created_on=None).exists()


def test_subscriptions_are_what_they_were_and_as_0_12_treated_them() -> None:
    subscriptions = Subscription.objects.order_by("pk")
    assert [
        {
            "id": subscription.pk,
            "partner": subscription.partner_id,
            "trigger": subscription.trigger,
            "callback_url": subscription.callback_url,
        }
        for subscription in subscriptions
    ] == EXPECTED["subscriptions"]
    for subscription in subscriptions:
        assert (subscription.active, subscription.counting) == (True, "once")
        assert subscription.closes_referral
        subscription.validate_callback_url()


def test_visitors_are_who_they_were() -> None:
    assert [
        {
            "id": visitor.pk,
            "partner": visitor.partner_id,
            "user": visitor.user_id,
            "referred_on": visitor.referred_on,
            "entry_point": visitor.entry_point,
            "successful_on": visitor.successful_on,
        }
        for visitor in Visitor.objects.order_by("pk")
    ] == [
        visitor
        | {
            "user": user_key(visitor["user"]),
            "entry_point": visitor["entry_point"][:LONGEST],
            "referred_on": moment(visitor["referred_on"]),
            "successful_on": moment(visitor["successful_on"]),
        }
        for visitor in EXPECTED["visitors_all"]
    ]


def test_visitors_who_were_successful_are_closed_and_no_others() -> None:
    """0.12 credited nobody twice."""
    closed = Visitor.objects.exclude(closed_on=None)
    assert closed.count() == EXPECTED["counts"]["visitors_successful"] == 14
    for visitor in Visitor.objects.all():
        assert visitor.closed_on == visitor.successful_on


def test_visitors_have_empty_labels() -> None:
    for visitor in Visitor.objects.all():
        labels = {getattr(visitor, f"sub{number}") for number in range(1, 6)}
        assert labels | {visitor.click_id, visitor.referrer} == {""}


def test_users_keep_their_visitors() -> None:
    user = get_user_model().objects.get(pk=user_key(1))
    expected = [row["id"] for row in EXPECTED["visitors_all"] if row["user"] == 1]
    assert sorted(user.visitors.values_list("pk", flat=True)) == expected != []


def test_new_rows_can_be_added() -> None:
    """The keys go on where 0.12 stopped."""
    partner = PartnerFactory()
    assert partner.pk > 4
    assert SubscriptionFactory(partner=partner).pk > 4
    assert VisitorFactory(partner=partner).pk > 50
    assert UserFactory().pk not in [user_key(number) for number in range(1, 14)]


def test_nothing_is_left_to_migrate() -> None:
    call_command("migrate", check_unapplied=True, verbosity=0)


# Served


def new_visitor() -> Visitor:
    """Return the one who came after the upgrade."""
    return Visitor.objects.get(pk__gt=50)


@pytest.mark.parametrize("uid", ["xlmXVo6M", "a8r6XZvl"])
def test_a_link_that_is_out_in_the_world_registers_a_visitor(uid: str, client: Client) -> None:
    response = client.get(f"/page/?affiliate_id={uid}&x=1")
    assert (response.status_code, response["Location"]) == (302, "/page/?x=1")
    visitor = new_visitor()
    assert (visitor.partner.uid, visitor.user) == (uid, None)
    assert visitor.entry_point == "http://testserver/page/?x=1"
    assert client.session["affiliate_visitor_id"] == visitor.pk


@pytest.mark.parametrize("uid", ["pYaGcpNh", "xlmxvo6m", "nonsense"])
def test_a_link_of_an_inactive_or_unknown_partner_registers_nobody(
    uid: str, client: Client
) -> None:
    assert client.get(f"/?affiliate_id={uid}").status_code == 302
    assert Visitor.objects.count() == 50


def test_an_order_is_credited_and_the_partner_will_be_called(client: Client) -> None:
    client.get("/?affiliate_id=xlmXVo6M")
    client.post("/order/")
    conversion, visitor = Conversion.objects.get(), new_visitor()
    assert (conversion.partner_id, conversion.visitor_id) == (2, visitor.pk)
    assert (conversion.subscription_id, conversion.trigger) == (2, "Order placed")
    callback = Callback.objects.get()
    assert callback.url == f"https://partner-a.example/cb/{visitor.pk}"
    assert callback.status == Callback.Status.QUEUED
    assert visitor.successful_on == visitor.closed_on == conversion.created_on
    client.post("/order/")
    assert Conversion.objects.count() == 1


def test_a_sign_up_is_credited(client: Client) -> None:
    client.get("/?affiliate_id=xlmXVo6M")
    client.post("/sign-up/", {"name": "new@shop.example"})
    conversion = Conversion.objects.get()
    assert (conversion.subscription_id, conversion.trigger) == (1, "User registered")
    assert conversion.user.get_username() == "new@shop.example"
    assert new_visitor().user == conversion.user
    url = "https://www.yourpartner.com/track/?campaign_id=123&visitor_id="
    assert Callback.objects.get().url == f"{url}{new_visitor().pk}"


def test_an_old_visitor_who_was_successful_is_not_credited_again(
    client: Client, settings: Any
) -> None:
    """(D14)"""
    settings.AFFILIATE_ATTRIBUTION_WINDOW = None
    remember(client, 46)
    client.post("/order/")
    assert Order.objects.exists()
    assert not Conversion.objects.exists()


def test_an_old_visitor_who_was_not_can_still_be_credited(client: Client, settings: Any) -> None:
    settings.AFFILIATE_ATTRIBUTION_WINDOW = None
    remember(client, 43)
    client.post("/order/")
    assert Conversion.objects.get().visitor_id == 43
    # With the user that 0.12 had given the visitor.
    assert Visitor.objects.get(pk=43).user_id == user_key(7)


def test_an_old_visitor_is_out_of_the_window_of_today(client: Client) -> None:
    remember(client, 43)
    client.post("/order/")
    assert not Conversion.objects.exists()


def remember(client: Client, visitor_id: int) -> None:
    arrivals.remember(client.session, Visitor.objects.get(pk=visitor_id))


def test_a_session_that_holds_no_more_than_0_12_wrote_is_forgotten(
    client: Client, settings: Any
) -> None:
    """Such as one of Django 1.11 in a cache. The next click counts."""
    settings.AFFILIATE_ATTRIBUTION_WINDOW = None
    session = client.session
    session["affiliate_visitor_id"] = 43
    session.save()
    client.post("/order/")
    assert not Conversion.objects.exists()
    assert "affiliate_visitor_id" not in client.session


def test_a_session_that_django_1_11_wrote_is_no_error(client: Client) -> None:
    """It comes back empty, so the browser is one without a visitor."""
    for session in EXPECTED["inflight_sessions"]:
        client.cookies["sessionid"] = session["key"]
        assert client.get("/").status_code == 200
        assert client.post("/order/").status_code == 200
        assert not Conversion.objects.exists()
    assert client.get("/?affiliate_id=xlmXVo6M").status_code == 302
    client.post("/order/")
    assert Conversion.objects.get().visitor == new_visitor()


# Written after the migration, by a process of 0.12 that still runs


@pytest.fixture
def late() -> RunningProcess:
    return RunningProcess("https://partner.example/?v={visitor_id}", timezone.now())


def test_a_row_that_0_12_still_writes_has_the_defaults_of_the_models(late: RunningProcess) -> None:
    for model, key in (
        (Partner, late.partner_id),
        (Subscription, late.subscription_id),
        (Visitor, late.visitor_id),
    ):
        row, new = model.objects.get(pk=key), model()
        for field in model._meta.local_concrete_fields:
            if field.has_db_default() and field.name != "signing_secret":
                default = getattr(new, field.attname)
                assert not isinstance(default, DatabaseDefault)
                assert getattr(row, field.attname) == default, field


def test_a_new_column_without_a_value_stops_no_process_of_0_12() -> None:
    """All columns that 0.12 does not know may be null or have a default in the database."""
    for model in (Partner, Subscription, Visitor):
        known = COLUMNS[model._meta.db_table]
        for field in model._meta.local_concrete_fields:
            assert field.column in known or field.null or field.has_db_default(), field


def test_a_partner_that_0_12_still_writes_is_clicked_credited_and_called_back(
    client: Client, settings: Any
) -> None:
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    with RawPartner() as server:
        late = RunningProcess(f"{server.url}?v={{visitor_id}}", timezone.now())
        client.get(f"/?affiliate_id={late.uid}")
        client.post("/order/")
        visitor = Visitor.objects.latest("pk")
        callback = Callback.objects.get()
        assert callback.conversion.visitor == visitor
        assert callback.subscription_id == late.subscription_id
        Callback.objects.update(next_attempt_on=callback.created_on)
        assert worker.deliver([callback.pk]).delivered == 1
        head = server.requests[0].decode()
    assert head.startswith(f"GET /cb?v={visitor.pk} HTTP/1.1")
    headers = dict(line.split(": ", 1) for line in head.split("\r\n") if ": " in line)
    secret = Partner.objects.get(pk=late.partner_id).signing_secret
    Webhook(secret).verify(f"/cb?v={visitor.pk}", headers, json_parse=False)


def test_a_test_callback_to_a_partner_that_0_12_still_writes_is_signed(settings: Any) -> None:
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    with RawPartner() as server:
        late = RunningProcess(f"{server.url}?v={{visitor_id}}", timezone.now())
        attempt = send_test_callback(Subscription.objects.get(pk=late.subscription_id))
    assert (attempt.status_code, attempt.error) == (200, "")
    assert b"webhook-signature: v1," in server.requests[0]


def test_a_visitor_that_0_12_still_writes_can_be_credited(
    client: Client, late: RunningProcess
) -> None:
    remember(client, late.visitor_id)
    client.post("/order/")
    conversion = Conversion.objects.get()
    assert (conversion.visitor_id, conversion.partner_id) == (late.visitor_id, late.partner_id)
    assert conversion.visitor.user_id == late.user_id


def test_a_visitor_that_0_12_still_credits_is_closed_by_the_lines_of_the_guide(
    client: Client, late: RunningProcess
) -> None:
    remember(client, late.visitor_id)
    Subscription.objects.update(closes_referral=False)
    client.post("/order/")
    guide = old_site.DATA.parent.parent / "docs/guides/upgrading.rst"
    steps = re.findall(r"^ +>>> (.*\blate\b.*)\n", guide.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(steps) == 2
    exec("\n".join(steps), {"Visitor": Visitor, "F": F})
    closed = Visitor.objects.get(pk=late.successful_id)
    assert closed.closed_on == closed.successful_on
    assert Visitor.objects.get(pk=late.visitor_id).closed_on is None


def test_a_partner_can_still_be_deleted_by_0_12(late: RunningProcess) -> None:
    late.delete_partner()
    assert not Visitor.objects.filter(pk__gt=50).exists()
    assert not Partner.objects.filter(uid=late.uid).exists()


def test_a_secret_is_created_once_for_a_partner_that_0_12_has_written(
    late: RunningProcess,
) -> None:
    one, other = (Partner.objects.get(pk=late.partner_id) for _ in range(2))
    one.ensure_signing_secret()
    other.ensure_signing_secret()
    assert one.signing_secret.startswith("whsec_")
    assert one.signing_secret == other.signing_secret
    assert Partner.objects.get(pk=late.partner_id).signing_secret == one.signing_secret


# The Admin


@pytest.fixture
def staff(client: Client) -> Client:
    """Log in as the administrator of 0.12, with the password of then."""
    User = get_user_model()
    admin = User.objects.get(pk=user_key(EXPECTED["users"]["admin"]))
    page = client.post(
        reverse("admin:login"),
        {"username": admin.get_username(), "password": EXPECTED["admin_password"]},
    )
    assert page.status_code == 302
    return client


def form_of(page: Any) -> dict[str, Any]:
    """Return the form on a page as a browser would send it back."""
    forms = [page.context["adminform"].form]
    for inline in page.context["inline_admin_formsets"]:
        forms += [inline.formset.management_form, *inline.formset.forms]
    data = {}
    for form in forms:
        for field in form:
            value = field.value()
            if value is True:
                data[field.html_name] = "on"
            elif value is not None and value is not False:  # but 0
                data[field.html_name] = value
    return data


def test_every_page_of_the_admin_opens(staff: Client) -> None:
    for model in (Partner, Subscription, Visitor):
        name = f"admin:affiliations_{model._meta.model_name}"
        assert staff.get(reverse(f"{name}_changelist")).status_code == 200
        # Those with the long entry points are the last.
        for row in [*model.objects.order_by("pk")[:3], *model.objects.order_by("-pk")[:3]]:
            assert staff.get(reverse(f"{name}_change", args=[row.pk])).status_code == 200


def test_what_0_12_still_writes_is_in_the_lists_of_the_admin(
    staff: Client, late: RunningProcess
) -> None:
    for name in ("partner", "subscription", "visitor"):
        page = staff.get(reverse(f"admin:affiliations_{name}_changelist"))
        key = getattr(late, f"{name}_id")
        assert key in [row.pk for row in page.context["cl"].result_list]
        page = staff.get(reverse(f"admin:affiliations_{name}_change", args=[key]))
        assert page.status_code == 200
    partner = Partner.objects.get(pk=late.partner_id)
    page = staff.post(
        reverse("admin:affiliations_partner_secret", args=[partner.pk]), {"show": "1"}
    )
    partner.refresh_from_db()
    assert partner.signing_secret in page.text


def test_the_list_of_visitors_can_be_narrowed_to_a_month_of_then(staff: Client) -> None:
    """MariaDB needs its time zones loaded only for zones other than UTC."""
    page = staff.get(
        reverse("admin:affiliations_visitor_changelist"),
        {"since": "2017-05-01", "until": "2017-05-31"},
    )
    assert page.context["cl"].result_count == 29


@pytest.mark.parametrize("partner_id", [2, 3, 4])
def test_the_page_of_a_partner_can_be_saved_again(partner_id: int, staff: Client) -> None:
    """(D22)"""
    page = reverse("admin:affiliations_partner_deal", args=[partner_id])
    before = old_site.read({table: ["id"] for table in OURS[:2]})
    assert staff.post(page, form_of(staff.get(page)) | {"name": "Renamed"}).status_code == 302
    assert Partner.objects.get(pk=partner_id).name == "Renamed"
    assert old_site.read({table: ["id"] for table in OURS[:2]}) == before


def test_a_trigger_that_is_not_in_the_settings_any_more_is_marked(staff: Client) -> None:
    page = staff.get(reverse("admin:affiliations_partner_deal", args=[4]))
    assert "Trigger no longer in settings (no longer in the settings)" in page.text


@pytest.mark.only_on("sqlite")
def test_the_database_is_sound() -> None:
    with connection.cursor() as cursor:
        assert cursor.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert cursor.execute("PRAGMA foreign_key_check").fetchall() == []


def test_the_window_of_0_12_is_one_line_of_settings(client: Client, settings: Any) -> None:
    """``None``: a visitor counts as long as the session lasts."""
    settings.AFFILIATE_ATTRIBUTION_WINDOW = None
    client.get("/?affiliate_id=xlmXVo6M")
    Visitor.objects.filter(pk=new_visitor().pk).update(
        referred_on=timezone.now() - timedelta(days=400)
    )
    remember(client, new_visitor().pk)
    client.post("/order/")
    assert Conversion.objects.get().visitor == new_visitor()
