from __future__ import annotations

import re
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core import checks
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, models, transaction
from django.db.models import ProtectedError
from django.utils import timezone
from django.utils.functional import SimpleLazyObject
from pytest_django import DjangoAssertNumQueries

from affiliations.exceptions import InvalidCallBackURL, Reason
from affiliations.models import (
    Callback,
    CallbackAttempt,
    Conversion,
    Partner,
    Subscription,
    Visitor,
)
from affiliations.triggers import complete_trigger
from tests.factories import (
    CallbackFactory,
    ConversionFactory,
    PartnerFactory,
    SubscriptionFactory,
    UserFactory,
    VisitorFactory,
)

pytestmark = pytest.mark.django_db

URL = "https://partner.example/cb?v={visitor_id}"
BAD_URL = "https://partner.example/cb"
UNICODE = "Bjørns Boghandel 📚 本 עברית"


@pytest.fixture
def now() -> datetime:
    return timezone.now()


class TestPartner:
    def test_a_new_one_has_a_uid_of_eight_characters_in_lower_case(self) -> None:
        partner = Partner.objects.create(name="Bjørns Boghandel")
        assert re.fullmatch("[a-z0-9]{8}", partner.uid)

    def test_no_two_get_the_same_uid(self) -> None:
        assert len({PartnerFactory().uid for _ in range(50)}) == 50

    def test_the_database_refuses_a_uid_that_another_has(self) -> None:
        taken = PartnerFactory().uid
        with pytest.raises(IntegrityError), transaction.atomic():
            PartnerFactory(uid=taken)

    def test_saving_again_keeps_the_uid(self) -> None:
        partner = PartnerFactory()
        uid = partner.uid
        partner.name = "Renamed"
        partner.save()
        partner.refresh_from_db()
        assert partner.uid == uid

    def test_a_new_one_is_not_active_until_somebody_says_so(self) -> None:
        assert not Partner.objects.create(name="Bjørns Boghandel").active

    def test_is_called_by_the_name(self) -> None:
        assert str(PartnerFactory(name=UNICODE)) == UNICODE

    def test_the_uid_cannot_be_edited(self) -> None:
        assert not Partner._meta.get_field("uid").editable

    def test_links_to_a_page_of_this_site(self) -> None:
        link = Partner(uid="moox6esi").link("/path/?x=1#y", click_id="4 2", sub1="a")
        assert link == "/path/?x=1&affiliate_id=moox6esi&click_id=4+2&sub1=a#y"

    def test_links_to_the_front_page_by_default(self) -> None:
        assert Partner(uid="moox6esi").link() == "/?affiliate_id=moox6esi"


class TestFindingAPartner:
    @pytest.mark.parametrize("uid", ["moox6esi", "xlmXVo6M", "12345678"])
    def test_by_the_uid(self, uid: str) -> None:
        partner = PartnerFactory(uid=uid)
        assert Partner.objects.by_uid(uid.encode()) == partner

    @pytest.mark.parametrize("behind", [b".", b")", b" ", b"\n", b",>", "…".encode(), b"\xff"])
    def test_with_what_a_mail_program_put_behind_the_link(self, behind: bytes) -> None:
        partner = PartnerFactory(uid="moox6esi")
        assert Partner.objects.by_uid(b"moox6esi" + behind) == partner

    @pytest.mark.parametrize("raw", [b"MOOX6ESI", b"Moox6esi", b"moox6es", b"moox6esj"])
    def test_not_by_another_uid_whatever_the_database_takes_for_the_same(self, raw: bytes) -> None:
        PartnerFactory(uid="moox6esi")
        assert Partner.objects.by_uid(raw) is None

    @pytest.mark.parametrize(
        "raw",
        [b"", b".", b" moox6esi", b"moox6esi\0", b"moox6esix", b"m" * 100_000, "møøx".encode()],
    )
    def test_not_by_what_cannot_be_a_uid_and_without_a_query(
        self, raw: bytes, django_assert_num_queries: DjangoAssertNumQueries
    ) -> None:
        PartnerFactory(uid="moox6esi")
        with django_assert_num_queries(0):
            assert Partner.objects.by_uid(raw) is None


class TestSubscription:
    @pytest.mark.parametrize("url", [URL, "http://partner.example/{click_id}", ""])
    def test_saves_what_can_be_called_or_nobody(self, url: str) -> None:
        SubscriptionFactory(callback_url=url)
        assert Subscription.objects.get().callback_url == url

    def test_raises_at_a_url_that_could_not_be_called(self) -> None:
        """As 0.12 did."""
        with pytest.raises(InvalidCallBackURL):
            SubscriptionFactory(callback_url=BAD_URL)
        assert not Subscription.objects.exists()

    def test_raises_when_an_existing_one_gets_such_a_url(self) -> None:
        subscription = SubscriptionFactory()
        subscription.callback_url = BAD_URL
        with pytest.raises(InvalidCallBackURL):
            subscription.save()
        with pytest.raises(InvalidCallBackURL):
            subscription.save(update_fields=["active", "callback_url"])
        assert Subscription.objects.get().callback_url == URL

    def test_writes_other_fields_of_a_row_of_0_12_whose_url_is_refused_today(self) -> None:
        subscription = SubscriptionFactory()
        Subscription.objects.update(callback_url=BAD_URL)
        subscription.refresh_from_db()
        subscription.active = False
        subscription.save(update_fields=["active"])
        stored = Subscription.objects.get()
        assert (stored.active, stored.callback_url) == (False, BAD_URL)
        stored.active = True
        stored.full_clean()
        stored.save()
        assert Subscription.objects.get().active
        stored.method = "POST"
        stored.callback_url += "{nothing}"
        with pytest.raises(InvalidCallBackURL):
            stored.save()

    def test_the_placeholder_of_0_12_has_its_name(self) -> None:
        assert Subscription.CALLBACK_URL_PLACEHOLDER == "{visitor_id}"
        Subscription(callback_url=URL).validate_callback_url()
        with pytest.raises(InvalidCallBackURL):
            Subscription(callback_url=BAD_URL).validate_callback_url()

    def test_a_url_of_2048_characters_fits(self) -> None:
        url = URL.ljust(2048, "x")
        SubscriptionFactory(callback_url=url)
        assert Subscription.objects.get().callback_url == url

    def test_http_is_refused_where_the_settings_say_so(self, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_REQUIRE_HTTPS = True
        SubscriptionFactory(callback_url=URL)
        with pytest.raises(InvalidCallBackURL, match="over HTTPS only"):
            SubscriptionFactory(callback_url="http://partner.example/{visitor_id}")

    def test_a_scheme_in_upper_case_is_https_too(self, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_REQUIRE_HTTPS = True
        SubscriptionFactory(callback_url="HTTPS://partner.example/{visitor_id}")

    def test_the_error_is_a_form_error_too(self) -> None:
        with pytest.raises(ValidationError) as caught:
            Subscription(callback_url=BAD_URL).full_clean(exclude=["partner", "trigger"])
        assert list(caught.value.message_dict) == ["callback_url"]

    def test_counts_once_and_closes_the_referral_by_default(self) -> None:
        subscription = Subscription.objects.create(partner=PartnerFactory(), trigger="x")
        assert subscription.active
        assert subscription.counting == Subscription.Counting.ONCE
        assert subscription.closes_referral

    def test_is_called_by_its_trigger(self) -> None:
        assert str(Subscription(trigger=UNICODE)) == UNICODE

    def test_a_second_of_one_partner_to_one_trigger_is_refused_in_forms(self) -> None:
        first = SubscriptionFactory()
        second = Subscription(partner=first.partner, trigger=first.trigger)
        with pytest.raises(ValidationError, match="already subscribes to this trigger"):
            second.full_clean()
        first.full_clean()
        Subscription(partner=PartnerFactory(), trigger=first.trigger).full_clean()

    def test_another_spelling_of_the_trigger_is_another_trigger(self) -> None:
        """MariaDB would take them for one."""
        first = SubscriptionFactory(trigger="Order placed")
        Subscription(partner=first.partner, trigger="order placed").full_clean()

    def test_a_form_of_a_host_that_leaves_the_partner_out_works(self) -> None:
        Subscription(trigger="Order placed").full_clean(exclude=["partner"])

    def test_that_was_read_before_it_was_suspended_does_not_take_that_back(self) -> None:
        subscription = SubscriptionFactory()
        suspended = {
            "failure_count": 10,
            "failing_since": timezone.now(),
            "callbacks_suspended_on": timezone.now(),
        }
        Subscription.objects.update(**suspended)
        subscription.active = False
        subscription.save()
        stored = Subscription.objects.values(*suspended, "active").get()
        assert stored == suspended | {"active": False}

    def test_saves_no_more_of_itself_than_was_read(
        self, django_assert_num_queries: DjangoAssertNumQueries
    ) -> None:
        pk = SubscriptionFactory(active=True).pk
        subscription = Subscription.objects.defer("active", "partner").get(pk=pk)
        Subscription.objects.update(active=False)
        subscription.trigger = "Another"
        with django_assert_num_queries(1):
            subscription.save()
        assert Subscription.objects.values_list("active", "trigger").get() == (False, "Another")


MISTAKES: list[tuple[dict[str, Any], dict[str, str]]] = [
    (
        {"payout_value": "5"},
        {"payout_type": "Choose a fixed amount or a percentage, or leave the payout value empty."},
    ),
    (
        {"payout_currency": "EUR"},
        {"payout_currency": "Leave this empty: only a fixed amount has a payout currency."},
    ),
    (
        {"payout_type": "fixed"},
        {
            "payout_value": "Enter a value greater than 0.",
            "payout_currency": "Enter the three-letter currency code, such as EUR.",
        },
    ),
    *(
        (
            {"payout_type": "fixed", "payout_value": value, "payout_currency": "EUR"},
            {"payout_value": "Enter a value greater than 0."},
        )
        for value in ("0", "-5")
    ),
    *(
        (
            {"payout_type": "fixed", "payout_value": "5", "payout_currency": code},
            {"payout_currency": "Enter the three-letter currency code, such as EUR."},
        )
        for code in ("EU", "XYZ", "BTC", "€", "XXX", "XTS")
    ),
    *(
        (
            {"payout_type": "fixed", "payout_value": value, "payout_currency": code},
            {"payout_value": f"Enter at most {decimals} decimals for {code}."},
        )
        for value, code, decimals in (("5.005", "EUR", 2), ("5.5", "JPY", 0), ("0.0005", "BHD", 3))
    ),
    (
        {"payout_type": "fixed", "payout_value": "5.005", "payout_currency": "XYZ"},
        {"payout_currency": "Enter the three-letter currency code, such as EUR."},
    ),
    (
        {"payout_type": "percent"},
        {"payout_value": "Enter a value greater than 0."},
    ),
    (
        {"payout_type": "percent", "payout_value": "0"},
        {"payout_value": "Enter a value greater than 0."},
    ),
    (
        {"payout_type": "percent", "payout_value": "100.0001"},
        {"payout_value": "Enter a percentage of at most 100."},
    ),
    (
        {"payout_type": "percent", "payout_value": "12.345", "payout_currency": "EUR"},
        {"payout_currency": "Leave this empty: only a fixed amount has a payout currency."},
    ),
    (
        {"approval": "manual", "approve_after": 14},
        {"approve_after": "Choose automatic approval, or leave the hold period empty."},
    ),
    (
        {"call_on_conversion": False, "call_on_rejection": True},
        {
            "call_on_rejection": (
                "A rejection is only sent after an earlier callback. Also send a callback when "
                "the conversion is created or approved."
            )
        },
    ),
    (
        {
            "payout_type": "percent",
            "callback_url": BAD_URL,
            "approval": "manual",
            "approve_after": 1,
        },
        {
            "payout_value": "Enter a value greater than 0.",
            "callback_url": (
                "Add {visitor_id} or {click_id}, so the partner can identify the visitor."
            ),
            "approve_after": "Choose automatic approval, or leave the hold period empty.",
        },
    ),
]


class TestWhatWasAgreed:
    @pytest.mark.parametrize(("fields", "messages"), MISTAKES, ids=str)
    def test_is_refused_in_forms_with_what_to_do(
        self, fields: dict[str, Any], messages: dict[str, str], partner: Partner
    ) -> None:
        with pytest.raises(ValidationError) as caught:
            Subscription(partner=partner, trigger="Order placed", **fields).full_clean()
        assert caught.value.message_dict == {name: [text] for name, text in messages.items()}

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"payout_type": "fixed", "payout_value": "0.01", "payout_currency": "EUR"},
            {"payout_type": "fixed", "payout_value": "99999999999", "payout_currency": "JPY"},
            {"payout_type": "fixed", "payout_value": "0.0001", "payout_currency": "CLF"},
            {"payout_type": "fixed", "payout_value": "1.500", "payout_currency": "BHD"},
            {"payout_type": "percent", "payout_value": "0.0001"},
            {"payout_type": "percent", "payout_value": "100"},
            {"approve_after": 0},
            {"approve_after": 365},
            {"approval": "manual"},
            {"call_on_rejection": True},
            {"call_on_conversion": False, "call_on_approval": True, "call_on_rejection": True},
            {"call_on_conversion": False},
        ],
        ids=str,
    )
    def test_can_be_kept(self, fields: dict[str, Any], partner: Partner) -> None:
        subscription = Subscription(partner=partner, trigger="Order placed", **fields)
        subscription.full_clean()
        subscription.save()
        stored = Subscription.objects.get()
        stored.full_clean()
        assert str(stored.payout_value or "").rstrip("0.") == str(
            fields.get("payout_value", "")
        ).rstrip("0.")

    def test_has_its_currency_in_capitals(self, partner: Partner) -> None:
        subscription = Subscription(
            partner=partner,
            trigger="x",
            payout_type="fixed",
            payout_value=5,
            payout_currency="eur",
        )
        subscription.full_clean()
        assert subscription.payout_currency == "EUR"

    def test_is_written_by_code_whatever_it_is_as_long_as_it_can_be_called(self) -> None:
        """As in 0.12, whose hosts make subscriptions in code."""
        SubscriptionFactory(payout_type="fixed", approval="manual", approve_after=3)
        with pytest.raises(InvalidCallBackURL):
            SubscriptionFactory(payout_type="fixed", callback_url=BAD_URL)

    def test_of_0_12_is_nothing_paid_and_each_success_told(self) -> None:
        subscription = Subscription.objects.create(partner=PartnerFactory(), trigger="x")
        assert (subscription.payout_type, subscription.payout_value) == ("none", None)
        assert (subscription.approval, subscription.approve_after) == ("automatic", None)
        assert subscription.call_on_conversion
        assert not subscription.call_on_approval
        assert not subscription.call_on_rejection


OPEN = {"closes_referral": False}
CLOSING = {"closes_referral": True}
EVERY = {"counting": "every"}


class TestSubscriptionsThatCloseTooEarly:
    @pytest.mark.parametrize(
        ("subscribed", "found"),
        [
            ([], []),
            ([("Order placed", CLOSING)], []),
            ([("Order placed", EVERY | OPEN)], []),
            ([("Order placed", EVERY | CLOSING)], ["Order placed"]),
            ([("User registered", OPEN), ("Order placed", EVERY | OPEN)], []),
            (
                [("User registered", CLOSING), ("Order placed", EVERY | OPEN)],
                ["User registered"],
            ),
            (
                [("User registered", CLOSING), ("Order placed", CLOSING)],
                ["User registered", "Order placed"],
            ),
            ([("Order placed", CLOSING), ("Order placed", OPEN)], []),
            (
                [("Order placed", CLOSING), ("Order placed", CLOSING), ("x", OPEN)],
                ["Order placed"],
            ),
            ([("User registered", CLOSING | {"active": False}), ("Order placed", OPEN)], []),
            ([("User registered", OPEN | {"active": False}), ("Order placed", CLOSING)], []),
        ],
        ids=str,
    )
    def test_are_named(
        self, subscribed: list[tuple[str, dict[str, Any]]], found: list[str], partner: Partner
    ) -> None:
        SubscriptionFactory(trigger="Somebody else’s")
        for trigger, fields in subscribed:
            SubscriptionFactory(partner=partner, trigger=trigger, **fields)
        assert partner.subscriptions.closing_too_early() == found


class TestTheSubscriptionsToATrigger:
    def test_are_the_active_ones_oldest_first(self, partner: Partner) -> None:
        first, second, third = SubscriptionFactory.create_batch(3, partner=partner)
        SubscriptionFactory(partner=partner, trigger="User registered")
        SubscriptionFactory(trigger="Order placed")
        Subscription.objects.filter(pk=second.pk).update(active=False)
        assert partner.subscriptions.to_trigger("Order placed") == [first, third]

    @pytest.mark.parametrize("name", ["order placed", "Örder placed", "Order placed ", "Order"])
    def test_are_not_those_to_a_similar_name(self, name: str, partner: Partner) -> None:
        SubscriptionFactory(partner=partner, trigger="Order placed")
        assert partner.subscriptions.to_trigger(name) == []


class TestVisitor:
    def test_keeps_any_text(self) -> None:
        VisitorFactory(click_id=UNICODE, sub1=UNICODE, sub5="💥" * 255, entry_point=f"/{UNICODE}")
        visitor = Visitor.objects.get()
        assert (visitor.click_id, visitor.sub1) == (UNICODE, UNICODE)
        assert (visitor.sub5, visitor.entry_point) == ("💥" * 255, f"/{UNICODE}")

    def test_every_field_full_of_four_byte_characters_fits_into_one_row(self) -> None:
        """MySQL has limits of a row's and an index's bytes."""
        texts = {
            field.name: "💥" * field.max_length
            for field in Visitor._meta.fields
            if isinstance(field, models.CharField)
        }
        VisitorFactory(**texts)
        assert Visitor.objects.filter(**texts).exists()

    def test_may_have_no_user(self) -> None:
        """(D21) 0.12 said so and refused it."""
        assert VisitorFactory(user=None).user is None

    def test_outlives_the_user(self) -> None:
        """(D21) 0.12 lost the visitor together with the user."""
        user = UserFactory()
        visitor = VisitorFactory(user=user)
        user.delete()
        visitor.refresh_from_db()
        assert visitor.user is None

    def test_belongs_to_whatever_user_model_the_host_has(self) -> None:
        """(D21)"""
        user = UserFactory()
        visitor = VisitorFactory(user=user)
        assert list(user.visitors.all()) == [visitor]
        assert Visitor._meta.get_field("user").related_model is get_user_model()

    def test_is_called_what_the_partner_calls_it(self) -> None:
        visitor = VisitorFactory()
        assert str(visitor) == str(visitor.pk)

    def test_knows_when_it_was_referred(self, now: datetime) -> None:
        assert now <= VisitorFactory().referred_on <= timezone.now()


def referred(visitor: Visitor, on: datetime) -> Visitor:
    Visitor.objects.filter(pk=visitor.pk).update(referred_on=on)
    visitor.refresh_from_db()
    return visitor


class TestAnOpenReferral:
    DAY = timedelta(days=1)

    def check(self, visitor: Visitor, now: datetime, reason: Reason | None) -> None:
        """Ask the row and the query, which must agree."""
        assert visitor.refusal(now) == reason
        assert Visitor.objects.open(now).filter(pk=visitor.pk).exists() == (reason is None)

    def test_is_a_new_one(self, now: datetime) -> None:
        self.check(VisitorFactory(), now, None)

    def test_is_not_closed(self, now: datetime) -> None:
        self.check(VisitorFactory(closed_on=now), now, Reason.REFERRAL_CLOSED)

    def test_may_have_been_successful(self, now: datetime) -> None:
        self.check(VisitorFactory(successful_on=now), now, None)

    def test_has_an_active_partner(self, now: datetime) -> None:
        visitor = VisitorFactory(partner__active=False)
        self.check(visitor, now, Reason.PARTNER_INACTIVE)

    def test_is_inside_the_window(self, now: datetime) -> None:
        visitor = VisitorFactory()
        self.check(referred(visitor, now - 30 * self.DAY + timedelta(seconds=1)), now, None)
        self.check(referred(visitor, now - 30 * self.DAY), now, Reason.WINDOW_EXPIRED)

    def test_is_inside_the_window_of_the_settings(self, now: datetime, settings: Any) -> None:
        settings.AFFILIATE_ATTRIBUTION_WINDOW = timedelta(hours=1)
        visitor = VisitorFactory()
        self.check(referred(visitor, now - timedelta(minutes=59)), now, None)
        self.check(referred(visitor, now - timedelta(minutes=61)), now, Reason.WINDOW_EXPIRED)

    def test_is_any_age_without_a_window(self, now: datetime, settings: Any) -> None:
        settings.AFFILIATE_ATTRIBUTION_WINDOW = None
        self.check(referred(VisitorFactory(), now - 10_000 * self.DAY), now, None)


class TestSucceed:
    def test_records_the_moment_and_the_user(self, now: datetime) -> None:
        visitor, user = VisitorFactory(), UserFactory()
        visitor.succeed(user)
        assert visitor.successful_on is not None
        assert now <= visitor.successful_on <= timezone.now()
        assert visitor.user == user
        stored = Visitor.objects.get()
        assert (stored.successful_on, stored.user) == (visitor.successful_on, user)

    def test_keeps_the_user_where_none_is_given(self) -> None:
        user = UserFactory()
        VisitorFactory(user=user).succeed()
        assert Visitor.objects.get().user == user

    @pytest.mark.parametrize("lazy", [False, True])
    def test_takes_the_user_of_a_request_who_is_not_logged_in(self, lazy: bool) -> None:
        """(D12) 0.12 crashed at it."""
        user = AnonymousUser()
        visitor = VisitorFactory()
        visitor.succeed(SimpleLazyObject(lambda: user) if lazy else user)
        assert visitor.successful_on
        assert Visitor.objects.get().user is None

    def test_happens_once(self) -> None:
        visitor = VisitorFactory()
        visitor.succeed(first := UserFactory())
        first_on, closed_on = visitor.successful_on, visitor.closed_on
        visitor.succeed(UserFactory())
        assert (visitor.successful_on, visitor.closed_on) == (first_on, closed_on)
        assert visitor.user == first
        # An object that was read before does not know of the first.
        again = Visitor.objects.get()
        again.successful_on = None
        again.succeed(UserFactory())
        stored = Visitor.objects.get()
        assert (stored.successful_on, stored.user) == (first_on, first)
        assert (again.successful_on, again.user) == (first_on, first)

    def test_keeps_a_user_who_is_known(self) -> None:
        visitor = VisitorFactory(user=(known := UserFactory()))
        visitor.succeed(UserFactory())
        assert visitor.successful_on
        assert visitor.user == known
        assert Visitor.objects.get().user == known

    def test_fills_in_the_user_of_an_earlier_conversion(self, now: datetime) -> None:
        visitor = VisitorFactory(successful_on=now)
        visitor.succeed(user := UserFactory())
        stored = Visitor.objects.get()
        assert (stored.successful_on, stored.user) == (now, user)

    def test_ignores_an_account_that_is_no_user(self) -> None:
        visitor = VisitorFactory()
        visitor.succeed(SimpleNamespace(is_authenticated=True, pk=17))
        assert visitor.successful_on
        assert Visitor.objects.get().user is None

    def test_closes_the_referral_as_a_conversion_does(self, now: datetime) -> None:
        visitor = VisitorFactory()
        SubscriptionFactory(partner=visitor.partner, counting="every")
        visitor.succeed()
        assert now <= visitor.closed_on <= timezone.now()
        assert Visitor.objects.get().closed_on == visitor.closed_on
        assert visitor.refusal(timezone.now()) is Reason.REFERRAL_CLOSED
        assert complete_trigger(None, "Order placed", visitor=visitor, reference="A17") is None

    def test_keeps_the_end_of_a_referral_that_is_closed(self, now: datetime) -> None:
        visitor = VisitorFactory(closed_on=now)
        visitor.succeed()
        assert visitor.successful_on
        assert (visitor.closed_on, Visitor.objects.get().closed_on) == (now, now)

    def test_costs_two_queries(self, django_assert_num_queries) -> None:
        visitor, user = VisitorFactory(), UserFactory()
        with django_assert_num_queries(2):
            visitor.succeed(user)

    def test_writes_nothing_else(self) -> None:
        visitor = VisitorFactory()
        Visitor.objects.update(click_id="written by another")
        visitor.succeed()
        assert Visitor.objects.get().click_id == "written by another"


class TestCredit:
    def test_takes_the_referral_and_closes_it(self, now: datetime) -> None:
        visitor, user = VisitorFactory(), UserFactory()
        assert visitor.credit(now, user, close=True)
        stored = Visitor.objects.get()
        assert (stored.successful_on, stored.closed_on, stored.user) == (now, now, user)

    def test_leaves_it_open_where_it_is_not_to_be_closed(self, now: datetime) -> None:
        visitor = VisitorFactory()
        assert visitor.credit(now, None, close=False)
        later = now + timedelta(hours=1)
        assert visitor.credit(later, None, close=True)
        stored = Visitor.objects.get()
        assert (stored.successful_on, stored.closed_on) == (now, later)

    def test_fails_where_another_was_faster(self, now: datetime) -> None:
        visitor, other = VisitorFactory(), UserFactory()
        assert Visitor.objects.get().credit(now, other, close=True)
        assert not visitor.credit(now + timedelta(hours=1), UserFactory(), close=True)
        stored = Visitor.objects.get()
        assert (stored.closed_on, stored.user) == (now, other)

    def test_fills_an_empty_user_only(self, now: datetime) -> None:
        first = UserFactory()
        visitor = VisitorFactory(user=first)
        assert visitor.credit(now, UserFactory(), close=True)
        assert Visitor.objects.get().user == first

    def test_keeps_the_user_where_nobody_is_known(self, now: datetime) -> None:
        first = UserFactory()
        assert VisitorFactory(user=first).credit(now, None, close=True)
        assert Visitor.objects.get().user == first

    def test_costs_one_query(
        self, now: datetime, django_assert_num_queries: DjangoAssertNumQueries
    ) -> None:
        visitor, user = VisitorFactory(), UserFactory()
        with django_assert_num_queries(1):
            visitor.credit(now, user, close=True)


class TestConversion:
    def test_is_counted_once_says_the_database(self) -> None:
        """(D28)"""
        conversion = ConversionFactory(dedupe_key="r:1")
        with pytest.raises(IntegrityError), transaction.atomic():
            ConversionFactory(trigger=conversion.trigger, dedupe_key="r:1")
        ConversionFactory(trigger="User registered", dedupe_key="r:1")
        ConversionFactory(trigger=conversion.trigger, dedupe_key="r:2")

    def test_is_credited_to_one_visitor_says_the_database(self) -> None:
        conversion = ConversionFactory(reference_key="1")
        with pytest.raises(IntegrityError), transaction.atomic():
            ConversionFactory(trigger=conversion.trigger, reference_key="1")
        ConversionFactory(trigger="User registered", reference_key="1")
        for reference_key in ("2", None, None):
            ConversionFactory(trigger=conversion.trigger, reference_key=reference_key)

    @pytest.mark.parametrize("kept", ["visitor", "partner", "subscription"])
    def test_is_a_fact_that_nothing_takes_away(self, kept: str) -> None:
        conversion = ConversionFactory()
        with pytest.raises(ProtectedError):
            getattr(conversion, kept).delete()
        assert Conversion.objects.exists()

    def test_outlives_the_user(self) -> None:
        user = UserFactory()
        conversion = ConversionFactory(user=user)
        user.delete()
        conversion.refresh_from_db()
        assert conversion.user is None

    def test_keeps_money_to_the_fourth_decimal(self) -> None:
        """SQLite keeps fifteen digits, the others nineteen."""
        conversion = ConversionFactory(amount="12345678901.2345")
        conversion.refresh_from_db()
        assert str(conversion.amount) == "12345678901.2345"

    def test_is_called_by_trigger_and_reference(self) -> None:
        assert str(Conversion(trigger="Order placed", reference="17")) == "Order placed: 17"
        assert str(Conversion(trigger="User registered")) == "User registered"

    def test_keeps_any_text(self) -> None:
        ConversionFactory(reference="💥" * 255, subscription__trigger="📚" * 100)
        conversion = Conversion.objects.get()
        assert (conversion.reference, conversion.trigger) == ("💥" * 255, "📚" * 100)


class TestCallback:
    def test_has_an_id_of_its_own_for_the_partner(self) -> None:
        ids = {CallbackFactory().webhook_id for _ in range(5)}
        assert len(ids) == 5
        assert all(re.fullmatch("[0-9a-f]{32}", webhook_id) for webhook_id in ids)

    def test_tells_an_event_once_says_the_database(self) -> None:
        callback = CallbackFactory()
        with pytest.raises(IntegrityError), transaction.atomic():
            CallbackFactory(conversion=callback.conversion)
        CallbackFactory(conversion=callback.conversion, subscription=SubscriptionFactory())

    def test_keeps_its_url_however_long(self) -> None:
        callback = CallbackFactory(url=f"{URL}{'📚' * 5000}")
        callback.refresh_from_db()
        assert callback.url == f"{URL}{'📚' * 5000}"

    @pytest.mark.parametrize("kept", ["conversion", "subscription"])
    def test_is_kept_whatever_is_deleted(self, kept: str) -> None:
        callback = CallbackFactory()
        with pytest.raises(ProtectedError):
            getattr(callback, kept).delete()

    @pytest.mark.parametrize(
        ("event", "status"),
        [("conversion", "pending"), ("approval", "approved"), ("rejection", "rejected")],
    )
    def test_keeps_the_status_as_of_its_event(self, event: str, status: str) -> None:
        conversion = ConversionFactory(status="pending")
        assert CallbackFactory(conversion=conversion, event=event).conversion_status == status

    def test_has_no_status_to_tell_without_a_conversion(self) -> None:
        assert Callback(event="test").conversion_status == ""

    @pytest.mark.parametrize("is_test", [True, False])
    def test_is_a_test_as_its_conversion_is(self, is_test: bool, now: datetime) -> None:
        rows = CallbackFactory.build_batch(2, conversion=ConversionFactory(is_test=is_test))
        rows[0].save()
        rows[1].version = 2
        Callback.objects.bulk_create(rows[1:])
        for row in Callback.objects.all():
            row.attempts.create(number=1, started_on=now, duration_ms=12)
        attempts = [CallbackAttempt(callback=row, number=2, started_on=now, duration_ms=12)
                    for row in Callback.objects.all()]  # fmt: skip
        CallbackAttempt.objects.bulk_create(attempts)
        for model, count in ((Callback, 2), (CallbackAttempt, 4)):
            assert list(model._default_manager.values_list("is_test", flat=True)) == (
                [is_test] * count
            )

    def test_is_a_test_if_staff_have_sent_it_with_sample_values(self) -> None:
        subscription = SubscriptionFactory()
        callback = Callback.objects.create(
            subscription=subscription, partner=subscription.partner, event=Callback.Event.TEST
        )
        assert callback.is_test

    def test_takes_its_attempts_along(self, now: datetime) -> None:
        callback = CallbackFactory()
        callback.attempts.create(number=1, started_on=now, duration_ms=12)
        callback.delete()
        assert not CallbackAttempt.objects.exists()


# The tables


def test_the_three_old_tables_keep_their_keys_and_the_new_ones_have_large_ones() -> None:
    keys = {model: type(model._meta.pk) for model in (Partner, Subscription, Visitor)}
    assert set(keys.values()) == {models.AutoField}
    keys = {model: type(model._meta.pk) for model in (Conversion, Callback, CallbackAttempt)}
    assert set(keys.values()) == {models.BigAutoField}


def test_the_related_names_of_0_12_are_there(now: datetime) -> None:
    visitor = VisitorFactory(user=UserFactory())
    subscription = SubscriptionFactory(partner=visitor.partner)
    assert list(visitor.partner.visitors.all()) == [visitor]
    assert list(visitor.partner.subscriptions.all()) == [subscription]


@pytest.mark.only_on("postgresql")
def test_the_callbacks_that_are_due_are_found_by_an_index(now: datetime) -> None:
    later = now + timedelta(days=1)
    conversion = ConversionFactory()
    waiting = [
        CallbackFactory.build(conversion=conversion, next_attempt_on=later, version=number)
        for number in range(500)
    ]
    Callback.objects.bulk_create(waiting)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE affiliations_callback")
    assert "affiliations_callback_due" in Callback.objects.due(now).explain()


def test_django_finds_nothing_wrong_with_the_tables() -> None:
    """What is wrong on MySQL, such as a unique text that is too long, is told with a database."""
    found = checks.run_checks(databases=["default"], include_deployment_checks=False)
    assert [message for message in found if "affiliations" in str(message.obj)] == []


def test_no_migration_needs_a_field_of_this_app() -> None:
    """A field that is renamed or removed later would break the migrations of today."""
    fields = [
        field
        for model in apps.get_app_config("affiliations").get_models()
        for field in model._meta.local_fields
    ]
    assert {field.deconstruct()[1].partition(".")[0] for field in fields} == {"django"}
