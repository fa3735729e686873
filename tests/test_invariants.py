"""
Whatever happens, in whatever order: what must be true stays true.

People follow links, buy, and tell twice; staff decide, change deals and end them; time passes, and
what is old is removed. A ledger beside the database says, from the rules alone, what each of these
must do. ``pytest --hypothesis-profile`` with more examples plays longer.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import timedelta
from decimal import ROUND_HALF_UP, Decimal
from itertools import count
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.db.models import Count, Sum
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from affiliations import privacy
from affiliations.callbacks import results
from affiliations.callbacks.transport import AttemptResult, Result
from affiliations.conversions import decisions
from affiliations.exceptions import NotCredited
from affiliations.models import (
    Callback,
    CallbackAttempt,
    Conversion,
    DailyClicks,
    FilteredClicks,
    Partner,
    Subscription,
    Visitor,
)
from affiliations.triggers import complete_trigger
from tests.arrivals import remember
from tests.claiming import claim
from tests.factories import PartnerFactory, SubscriptionFactory

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls(__name__)]

Status = Conversion.Status

DAY = timedelta(days=1)
WINDOW = 30 * DAY

OK = Result(duration_ms=7, status_code=200)
NO = Result(duration_ms=7, error=CallbackAttempt.Error.CONNECT)

CALLBACK = "https://partner.example/?v={visitor_id}&event={event}&status={status}&payout={payout}"
DEALS: list[dict[str, dict[str, Any]]] = [
    {
        "Order": {"counting": "every", "payout_type": "percent", "payout_value": "12.5"}
        | {"approval": "manual"},
        "Lead": {"approve_after": 14},
        "Newsletter": {"closes_referral": True}
        | {"payout_type": "fixed", "payout_value": "0.5", "payout_currency": "EUR"},
    },
    {
        "Order": {"counting": "every", "payout_type": "percent", "payout_value": "33.3333"},
        "Lead": {"payout_type": "fixed", "payout_value": 7, "payout_currency": "JPY"}
        | {"closes_referral": True},
    },
]
DECIMALS = {"EUR": Decimal("0.01"), "JPY": Decimal(1)}

#: The headers of those whose request is no visit.
NO_VISITS: list[dict[str, str]] = [
    {"user-agent": "Googlebot/2.1"},
    {"sec-purpose": "prefetch"},
    {"sec-fetch-dest": "image"},
]

machines = count()


@csrf_exempt
def complete(request: HttpRequest, trigger: str) -> HttpResponse:
    """Complete a trigger for whoever the browser is."""
    stated = {name: value for name, value in request.POST.items() if value}
    conversion = complete_trigger(request, trigger, **stated)
    return HttpResponse("" if conversion is None else str(conversion.pk))


urlpatterns = [path("complete/<trigger>/", complete), path("", complete, {"trigger": "none"})]


@dataclass
class Fact:
    """What a conversion was when it was counted, and must be for ever."""

    visitor_id: int
    partner_id: int
    subscription_id: int
    trigger: str
    reference: str
    is_test: bool
    amount: Decimal | None
    currency: str
    payout_type: str
    payout_value: Decimal | None
    payout: Decimal | None
    payout_currency: str


partners, browsers = st.integers(0, len(DEALS) - 1), st.integers(0, 2)
triggers = st.sampled_from(["Order", "Order", "Lead", "Newsletter", "Nobody subscribes"])
references = st.sampled_from(["17", "18", "a", "A"])
amounts = st.sampled_from(["", "0", "0.04", "19.99", "1000"])
currencies = st.sampled_from(["EUR", "JPY", ""])


class Site(RuleBasedStateMachine):
    """Two partners, three browsers, and a ledger of what they have done."""

    counted: Bundle[int] = Bundle("counted")
    first_click = False

    @initialize(target=counted)
    def opens(self) -> Any:
        # Nothing is removed between two plays, so each has names of its own.
        self.number = next(machines)
        self.partners = [PartnerFactory() for _ in DEALS]
        for partner, deal in zip(self.partners, DEALS, strict=True):
            for trigger, options in deal.items():
                SubscriptionFactory(
                    partner=partner,
                    trigger=trigger,
                    callback_url=CALLBACK,
                    **{"closes_referral": False, "call_on_approval": True}
                    | {"call_on_rejection": True}
                    | options,
                )
        self.clients = [Client() for _ in range(3)]
        self.on_their_way: list[Callback] = []
        # The ledger.
        self.remembered: list[int | None] = [None] * 3
        self.arrived: Counter[int | None] = Counter()
        self.unknown_before = self._uncounted(None)
        self.facts: dict[int, Fact] = {}
        self.first_status: dict[int, str] = {}
        self.status: dict[int, str] = {}
        self.waits_for_its_day: set[int] = set()
        # Something to decide on. The third browser is nobody's.
        order = {"trigger": "Order", "amount": "19.99", "currency": "EUR"}
        return multiple(*[self.do(n, n, reference=f"first {n}", **order) for n in (0, 1)])

    # Somebody comes.

    @rule(browser=browsers, partner=partners, click_id=st.sampled_from(["", "c1"]))
    def click(self, browser: int, partner: int, click_id: str) -> None:
        self._follow(browser, self.partners[partner].link("/", click_id=click_id), click_id)
        self.arrived[self.partners[partner].pk] += 1

    @rule(browser=browsers, partner=partners)
    def try_the_deal(self, browser: int, partner: int) -> None:
        self._follow(browser, self.partners[partner].test_link("/"), "", is_test=True)

    @rule(browser=browsers, partner=partners, headers=st.sampled_from([None, *NO_VISITS]))
    def come_and_be_no_visitor(
        self, browser: int, partner: int, headers: dict[str, str] | None
    ) -> None:
        link, before = self.partners[partner].link("/"), self._visitors()
        client = self.clients[browser]
        _ = client.head(link) if headers is None else client.get(link, headers=headers)
        assert self._visitors() == before
        self.arrived[self.partners[partner].pk] += 1

    @rule(browser=browsers)
    def follow_a_link_of_nobody(self, browser: int) -> None:
        before = self._visitors()
        self.clients[browser].get("/?affiliate_id=nobody00")
        assert self._visitors() == before
        self.arrived[None] += 1

    # Somebody does something.

    @rule(
        target=counted,
        browser=browsers,
        partner=st.sampled_from([0, 1, None]),
        trigger=triggers,
        reference=references,
        amount=amounts,
        currency=currencies,
    )
    def do(self, browser: int, partner: int | None, trigger: str, **stated: str) -> Any:
        if partner is not None:
            self.click(browser, partner, "")
        visitor = self.remembered[browser]
        expected = self._expected(visitor, trigger, stated["reference"])
        stated["reference"] = self._named(stated["reference"])
        response = self.clients[browser].post(f"/complete/{trigger}/", stated)
        assert response.status_code == 200
        return self._note(response.content.decode(), visitor, trigger, stated, expected)

    @rule(
        target=counted,
        number=st.integers(0, 9),
        days=st.sampled_from([None, 0.5, 2, 31, 61]),
        trigger=triggers,
        reference=references,
        amount=amounts,
        currency=currencies,
    )
    def tell_by_webhook(self, number: int, days: float | None, trigger: str, **stated: str) -> Any:
        visitors = sorted(self._visitors())
        visitor = visitors[number % len(visitors)] if visitors else 0
        if days is not None:
            self.let_time_pass_for_one(number, days)
        expected = self._expected(visitor, trigger, stated["reference"])
        stated["reference"] = self._named(stated["reference"])
        conversion = complete_trigger(
            None,
            trigger,
            visitor=Visitor(pk=visitor),
            reference=stated["reference"],
            amount=stated["amount"] or None,
            currency=stated["currency"],
        )
        key = "" if conversion is None else str(conversion.pk)
        return self._note(key, visitor, trigger, stated, expected)

    # Somebody decides.

    @rule(
        conversion=counted,
        steps=st.lists(
            st.tuples(st.sampled_from(Status.values), st.sampled_from([None, OK, NO])),
            min_size=2,
            max_size=6,
        ),
    )
    def decide(self, conversion: int, steps: list[tuple[str, Result | None]]) -> None:
        for status, result in steps:
            if result is not None:
                self.begin_to_send(20)
                self.end_sending(result)
            self._decide(Conversion.objects.get(pk=conversion), status)
            self.what_waits_to_be_told_is_true()

    @rule(
        conversion=counted,
        status=st.sampled_from(Status.values),
        other=st.sampled_from(Status.values),
    )
    def decide_what_somebody_else_decides(self, conversion: int, status: str, other: str) -> None:
        mine, theirs = (Conversion.objects.get(pk=conversion) for _ in range(2))
        if self._decide(theirs, other) and status in decisions.TRANSITIONS[mine.status]:
            assert not decisions.decide(mine, status)

    @rule(days=st.sampled_from([1, 15]))
    def sweep(self, days: int) -> None:
        decisions.approve_due(timezone.now() + days * DAY)
        for pk in list(self.waits_for_its_day) if days > 14 else []:
            self._becomes(pk, Status.APPROVED)

    @rule(partner=partners)
    def stop_for_fraud(self, partner: int) -> None:
        theirs = self.partners[partner]
        pending = self._having(Status.PENDING, theirs)
        assert decisions.stop_for_fraud(theirs, reason="Own orders") == len(pending)
        for pk in pending:
            self._becomes(pk, Status.REJECTED)
        assert not Callback.objects.filter(partner=theirs, status="queued").exists()

    # Somebody sends.

    @rule(number=st.integers(1, 5))
    def begin_to_send(self, number: int) -> None:
        self._callbacks().queued().filter(lease_token="").update(next_attempt_on=timezone.now())
        ids = list(self._callbacks().values_list("pk", flat=True))
        self.on_their_way += claim(number, ids)

    @rule(result=st.sampled_from([OK, NO]))
    def end_sending(self, result: Result) -> None:
        results.record(
            [AttemptResult(callback, timezone.now(), result) for callback in self.on_their_way]
        )
        self.on_their_way = []

    # Deals change, and time passes.

    @rule(partner=partners, active=st.sampled_from([True, True, False]))
    def switch_partner(self, partner: int, active: bool) -> None:
        Partner.objects.filter(pk=self.partners[partner].pk).update(active=active)

    @rule(
        partner=partners,
        trigger=triggers,
        active=st.sampled_from([True, True, False]),
        value=st.integers(1, 100),
    )
    def change_deal(self, partner: int, trigger: str, active: bool, value: int) -> None:
        theirs = Subscription.objects.filter(partner=self.partners[partner], trigger=trigger)
        theirs.update(active=active)
        theirs.exclude(payout_type="none").update(payout_value=value)

    @rule(partner=partners, days=st.sampled_from([None, 1, 60]))
    def change_window(self, partner: int, days: int | None) -> None:
        window = None if days is None else days * DAY
        Partner.objects.filter(pk=self.partners[partner].pk).update(window=window)

    @rule(number=st.integers(0, 9), days=st.sampled_from([0.5, 2, 31, 61]))
    def let_time_pass_for_one(self, number: int, days: float) -> None:
        if visitors := sorted(self._visitors()):
            came = timezone.now() - days * DAY
            pk = visitors[number % len(visitors)]
            Visitor.objects.filter(pk=pk).update(referred_on=came)
            for client, remembered in zip(self.clients, self.remembered, strict=True):
                if remembered == pk:  # The browser knows the time of the click.
                    remember(client.session, Visitor.objects.get(pk=pk))

    @rule(days=st.sampled_from([0, 1, 40]))
    def purge(self, days: int) -> None:
        before = timezone.now() - days * DAY
        useless = {
            visitor.pk
            for visitor in Visitor.objects.filter(partner__in=self.partners)
            if visitor.pk not in {fact.visitor_id for fact in self.facts.values()}
            and visitor.referred_on < min(before, timezone.now() - self._window(visitor.partner))
        }
        kept = self._visitors() - useless
        assert sum(privacy.purge(before, batch=2)) >= len(useless)
        assert self._visitors() == kept

    # What must be true.

    @invariant()
    def facts_stay(self) -> None:
        rows = {row.pk: row for row in self._conversions()}
        assert {pk: self._fact(row) for pk, row in rows.items()} == self.facts
        assert {pk: row.status for pk, row in rows.items()} == self.status

    @invariant()
    def nothing_is_credited_twice(self) -> None:
        facts = self.facts.values()
        things = [(fact.trigger, fact.reference, fact.is_test) for fact in facts]
        assert len(set(things)) == len(things)
        places = [
            (fact.trigger, fact.visitor_id)
            for pk, fact in self.facts.items()
            if fact.trigger != "Order" and self.status[pk] != Status.REJECTED
        ]
        assert len(set(places)) == len(places)

    @invariant()
    def what_is_paid_is_the_rule_that_was_frozen(self) -> None:
        for fact in self.facts.values():
            if fact.payout_type == "fixed":
                assert fact.payout == fact.payout_value
            elif fact.payout_type == "percent" and fact.amount and fact.currency:
                share = fact.amount * fact.payout_value / 100
                smallest = DECIMALS[fact.currency]
                assert fact.payout == share.quantize(smallest, ROUND_HALF_UP)
                assert fact.payout_currency == fact.currency
            else:
                assert fact.payout is None

    @invariant()
    def totals_are_the_sum_of_the_rows(self) -> None:
        for partner in self.partners:
            theirs = self._conversions().filter(partner=partner, is_test=False)
            by_currency = theirs.exclude(payout=None).values_list("status", "payout_currency")
            totals = {
                (status, currency): total
                for status, currency, total in by_currency.annotate(Sum("payout")).order_by()
            }
            ledger: dict[tuple[str, str], Decimal] = {}
            for row in theirs:
                fact, status = self.facts[row.pk], self.status[row.pk]
                if fact.payout is not None:
                    key = (status, fact.payout_currency)
                    ledger[key] = ledger.get(key, Decimal()) + fact.payout
            assert totals == ledger

    @invariant()
    def all_that_arrived_is_counted_or_not_counted_or_purged(self) -> None:
        for partner in self.partners:
            counted = Visitor.objects.filter(partner=partner, is_test=False).count()
            rows = DailyClicks.objects.filter(partner=partner, sub_id=0)
            purged = rows.aggregate(sum=Sum("purged"))["sum"]
            found = counted + self._uncounted(partner) + (purged or 0)
            assert found == self.arrived[partner.pk]
        assert self._uncounted(None) - self.unknown_before == self.arrived[None]

    @invariant()
    def each_event_is_told_once_and_as_it_was(self) -> None:
        told = self._callbacks().values("conversion", "subscription", "event")
        assert not told.annotate(times=Count("pk")).filter(times__gt=1).exists()
        as_of = {"approval": Status.APPROVED, "rejection": Status.REJECTED}
        for callback in self._callbacks():
            query = parse_qs(urlsplit(callback.url).query)
            first = self.first_status[callback.conversion_id]
            assert query["status"] == [as_of.get(callback.event, first)]
            assert query["event"] == [callback.event]
            payout = self.facts[callback.conversion_id].payout
            assert [Decimal(value) for value in query.get("payout", [])] == (
                [] if payout is None else [payout]
            )

    @invariant()
    def what_waits_to_be_told_is_true(self) -> None:
        not_true = {
            Status.PENDING: {"approval", "rejection"},
            Status.APPROVED: {"rejection"},
            Status.REJECTED: {"conversion", "approval"},
        }
        callbacks = list(self._callbacks())
        # Or may have: what is being sent when it is rejected may arrive, or not.
        heard = {
            one.conversion_id for one in callbacks if one.attempt_count and one.event != "rejection"
        }
        for callback in callbacks:
            if callback.status == "queued":
                assert callback.event not in not_true[self.status[callback.conversion_id]]
            if callback.event == "rejection" and callback.status == "queued":
                assert callback.conversion_id in heard

    # The ledger's own rules.

    def _follow(self, browser: int, link: str, click_id: str, *, is_test: bool = False) -> None:
        """Follow a link, and look whether that is a new visitor, and whom the browser is now."""
        before, now = self._visitors(), timezone.now()
        former = Visitor.objects.filter(pk=self.remembered[browser]).first()
        response = self.clients[browser].get(link)
        assert response.status_code == 302
        new = Visitor.objects.filter(partner__in=self.partners).exclude(pk__in=before)
        partner = next(one for one in self.partners if one.uid in link)
        if not self._is_active(partner):
            assert not new
            return
        is_open = former is not None and self._is_open(former)
        rival = former if is_open and not former.is_test else None
        if rival is not None and is_test:
            assert not new
            return
        if (
            rival is not None
            and (rival.partner, rival.click_id) == (partner, click_id)
            and now - rival.referred_on < timedelta(hours=1)
        ):
            assert not new
            return
        [visitor] = new
        assert (visitor.partner, visitor.click_id, visitor.is_test) == (partner, click_id, is_test)
        stays = rival is not None and self.first_click
        assert visitor.previous == (former if is_open and not stays else None)
        if not stays:
            self.remembered[browser] = visitor.pk

    def _expected(self, pk: int | None, trigger: str, reference: str) -> Subscription | None:
        """Return what a conversion must be counted for, ``None`` where it must not be counted."""
        visitor = Visitor.objects.select_related("partner").filter(pk=pk).first()
        if visitor is None or not self._is_open(visitor):
            return None
        named = (trigger, self._named(reference), visitor.is_test)
        if any(
            (fact.trigger, fact.reference, fact.is_test) == named for fact in self.facts.values()
        ):
            return None
        if self._has_its_place(trigger, visitor.pk):
            return None
        theirs = Subscription.objects.filter(partner=visitor.partner, active=True)
        return theirs.filter(trigger=trigger).first()

    def _note(
        self,
        key: str,
        visitor: int | None,
        trigger: str,
        stated: dict[str, str],
        expected: Subscription | None,
    ) -> Any:
        """Write into the ledger what was counted, if it was to be."""
        assert bool(key) == (expected is not None)
        if expected is None:
            return multiple()
        row = Conversion.objects.get(pk=int(key))
        fact = self._fact(row)
        amount = Decimal(stated["amount"]) if stated["amount"] else None
        assert asdict(fact) | {"payout": None, "payout_currency": ""} == {
            "visitor_id": visitor,
            "partner_id": expected.partner_id,
            "subscription_id": expected.pk,
            "trigger": trigger,
            "reference": stated["reference"],
            "is_test": row.visitor.is_test,
            "amount": amount,
            "currency": stated["currency"],
            "payout_type": expected.payout_type,
            "payout_value": expected.payout_value,
            "payout": None,
            "payout_currency": "",
        }
        is_doubtful = (amount is not None and not fact.currency) or (
            fact.payout_type == "percent" and not amount
        )
        is_at_once = expected.approval == "automatic" and not expected.approve_after
        pending = is_doubtful or not is_at_once
        assert row.status == (Status.PENDING if pending else Status.APPROVED)
        assert bool(row.reason) == is_doubtful
        if expected.approve_after and not is_doubtful:
            self.waits_for_its_day.add(row.pk)
        self.facts[row.pk] = fact
        self.status[row.pk] = self.first_status[row.pk] = row.status
        row.visitor.refresh_from_db()
        assert (row.visitor.closed_on is not None) == expected.closes_referral
        return row.pk

    def _decide(self, conversion: Conversion, status: str) -> bool:
        """Decide as the table of transitions lets, and write it into the ledger."""
        before = conversion.status
        if status != before and (before, status) == (Status.APPROVED, Status.PENDING):
            with pytest.raises(ValueError, match="cannot become"):
                decisions.decide(conversion, status)
            return False
        fact = self.facts[conversion.pk]
        if before == Status.REJECTED != status and self._has_its_place(
            fact.trigger, fact.visitor_id
        ):
            with pytest.raises(NotCredited):
                decisions.decide(conversion, status)
            return False
        assert decisions.decide(conversion, status) == (status != before)
        if status != before:
            self._becomes(conversion.pk, status)
        return status != before

    def _has_its_place(self, trigger: str, visitor: int) -> bool:
        """Tell whether a conversion that counts once a visitor stands; a rejection frees that."""
        return trigger != "Order" and any(
            (fact.trigger, fact.visitor_id) == (trigger, visitor)
            and self.status[pk] != Status.REJECTED
            for pk, fact in self.facts.items()
        )

    def _becomes(self, pk: int, status: str) -> None:
        self.status[pk] = status
        self.waits_for_its_day.discard(pk)

    def _having(self, status: str, partner: Partner) -> list[int]:
        return [
            pk
            for pk, current in self.status.items()
            if current == status and self.facts[pk].partner_id == partner.pk
        ]

    def _is_open(self, visitor: Visitor) -> bool:
        is_fresh = timezone.now() - visitor.referred_on < self._window(visitor.partner)
        return visitor.closed_on is None and is_fresh and self._is_active(visitor.partner)

    def _is_active(self, partner: Partner) -> bool:
        return Partner.objects.get(pk=partner.pk).active

    def _window(self, partner: Partner) -> timedelta:
        return Partner.objects.get(pk=partner.pk).window or WINDOW

    def _named(self, reference: str) -> str:
        return f"{self.number}:{reference}"

    def _fact(self, row: Conversion) -> Fact:
        return Fact(**{name: getattr(row, name) for name in Fact.__dataclass_fields__})

    def _visitors(self) -> set[int]:
        return set(Visitor.objects.filter(partner__in=self.partners).values_list("pk", flat=True))

    def _conversions(self) -> Any:
        return Conversion.objects.filter(partner__in=self.partners).order_by("pk")

    def _callbacks(self) -> Any:
        return Callback.objects.filter(partner__in=self.partners)

    def _uncounted(self, partner: Partner | None) -> int:
        rows = FilteredClicks.objects.filter(partner=partner)
        return rows.aggregate(sum=Sum("count"))["sum"] or 0


@pytest.mark.slow
@pytest.mark.parametrize("model", ["last_click", "first_click"])
def test_what_must_be_true_stays_true(settings: Any, model: str) -> None:
    settings.AFFILIATE_ATTRIBUTION_MODEL = model

    class ThisSite(Site):
        first_click = model == "first_click"

    examples = max(1, hypothesis_settings.default.max_examples // 4)
    run_state_machine_as_test(
        ThisSite,
        settings=hypothesis_settings(
            hypothesis_settings.default, max_examples=examples, stateful_step_count=30
        ),
    )
