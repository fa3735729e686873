"""
Each partner is paid what the rules say, to the cent, whatever a shop reports and staff do.

Orders are saved, paid, declined, edited and refunded by the shop's signals, twice, late and in any
order; staff decide, adjust, credit manually and settle in between. ``Books`` says, from the rules
alone, what each of these must do.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from functools import partial
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models.signals import post_save
from django.dispatch import Signal
from django.utils import timezone
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from affiliations.conversions import adjustments, decisions, recording, settlements, unpaid
from affiliations.conversions.unpaid import CutOff
from affiliations.exceptions import NotCredited
from affiliations.models import Conversion, Settlement
from affiliations.triggers import (
    adjust_conversions,
    approve_conversions,
    object_saved,
    reject_conversions,
)
from tests.arrivals import commit
from tests.factories import PartnerFactory, SubscriptionFactory, UserFactory, VisitorFactory
from tests.testapp.models import Order

pytestmark = pytest.mark.django_db

Status = Conversion.Status
PENDING, APPROVED, REJECTED = Status.PENDING, Status.APPROVED, Status.REJECTED

NOTHING = Decimal(0)
UNITS = {"EUR": Decimal("0.01"), "JPY": Decimal(1), "": Decimal("0.0001")}

order_paid, card_declined, order_refunded, order_edited = (Signal() for _ in range(4))

PLACED = "Order placed"
OF = {"of": PLACED}
ORDER = {"visitor": "affiliate_visitor", "user": "user", "amount": "total", "currency": "currency"}
TRIGGERS = [
    (PLACED, post_save, object_saved, Order, ORDER),
    ("Order paid", order_paid, approve_conversions, Order, OF),
    ("Card declined", card_declined, reject_conversions, Order, OF | {"may_be_paid": True}),
    ("Order refunded", order_refunded, reject_conversions, Order, OF),
    ("Order edited", order_edited, adjust_conversions, Order,
     OF | {"new_amount": "total", "currency": "currency"}),
]  # fmt: skip


@dataclass(frozen=True)
class Deal:
    """What a partner has agreed on."""

    payout_type: str
    payout_value: Decimal | None
    payout_currency: str
    counting: str
    closes_referral: bool
    approval: str
    approve_after: int | None

    def payout(self, amount: Decimal | None, currency: str) -> tuple[Decimal | None, str]:
        if self.payout_type == "fixed":
            return self.payout_value, self.payout_currency
        if self.payout_type == "none" or not amount or not currency:
            return None, ""
        share = amount * self.payout_value / 100
        return share.quantize(UNITS[currency], ROUND_HALF_UP), currency


@dataclass
class Person:
    """A visitor: of which partner, and whether they are the partner's own account, or a test."""

    visitor: Any
    partner: int
    is_own: bool = False
    is_test: bool = False
    is_closed: bool = False


@dataclass
class Line:
    """A conversion, as it must be now."""

    order: int
    person: Person
    deal: Deal
    amount: Decimal | None
    currency: str
    closes: bool
    #: The step in which it was credited.
    created_in: int
    status: str = PENDING
    needs_staff: bool = False
    waits_for_its_day: bool = False
    may_be_paid: bool = False
    is_reopened: bool = False
    was_counted_with_amount: bool = False
    #: The steps in which it was decided, and in which what is paid changed after its settlement.
    decided_in: int = 0
    is_settled: bool = False
    earned: Decimal = NOTHING
    changes: list[tuple[int, Decimal]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.was_counted_with_amount = bool(self.amount)
        self.payout, self.payout_currency = self.deal.payout(self.amount, self.currency)

    @property
    def stands(self) -> bool:
        return self.status != REJECTED

    @property
    def is_percentage(self) -> bool:
        return self.deal.payout_type == "percent"

    @property
    def lacks_amount(self) -> bool:
        """Whether staff may fill it in."""
        missing = not self.was_counted_with_amount and not self.amount
        return self.status == PENDING and (self.payout is None if self.is_percentage else missing)

    def lower(self, amount: Decimal) -> None:
        if self.amount is None or amount >= self.amount:
            return
        if self.payout is not None and self.is_percentage:
            before, after = (
                self.deal.payout(of, self.currency)[0] or NOTHING for of in (self.amount, amount)
            )
            self.payout = max(self.payout + after - before, NOTHING)
        self.amount = amount

    def due(self) -> Decimal:
        is_paid = self.stands and self.payout is not None and not self.person.is_test
        return self.payout if is_paid and self.payout is not None else NOTHING


class Books:
    """The rules, without a database: what is credited, and what each conversion pays."""

    def __init__(self, deals: list[Deal], people: list[Person]) -> None:
        self.deals, self.people = deals, people
        self.stopped = [False for _ in deals]
        self.lines: list[Line] = []
        self.step = 0

    # What the shop reports.

    def credit(
        self,
        order: int,
        person: Person,
        amount: Decimal | None,
        currency: str,
        *,
        manual: bool = False,
    ) -> Line | None:
        deal = self.deals[person.partner]
        same = [one for one in self.lines if one.order == order]
        same = [one for one in same if one.person.is_test == person.is_test]
        is_open = not person.is_closed and not self.stopped[person.partner]
        if not manual and (same or not is_open):
            return None
        closes = deal.closes_referral and (
            not manual or not person.is_closed or self._is_closed_by_a_line(person)
        )
        line = Line(order, person, deal, amount, currency, closes, self.step)
        if self._has_its_place_taken(line):
            return None
        self.lines.append(line)
        person.is_closed |= closes
        has_problem = amount is not None and not currency
        line.needs_staff = person.is_own or has_problem or (line.is_percentage and not amount)
        if not line.needs_staff and deal.approval == "automatic":
            line.waits_for_its_day = bool(deal.approve_after)
            if not deal.approve_after:
                line.status, line.decided_in = APPROVED, self.step
        return line

    def pay(self, order: int, amount: Decimal | None, currency: str) -> None:
        for line in self._found(order):
            may_be_paid = line.status == PENDING or (line.status == REJECTED and line.may_be_paid)
            if not may_be_paid or line.needs_staff or self._has_its_place_taken(line):
                continue
            self._set(line, APPROVED)
            is_comparable = currency == line.currency and (amount is None or bool(currency))
            if line.is_percentage and not (is_comparable and amount):
                line.status, line.needs_staff = PENDING, True
            elif is_comparable and amount is not None:
                line.lower(amount)

    def refund(self, order: int, *, may_be_paid: bool = False) -> None:
        for line in self._found(order):
            if line.stands and not line.is_reopened:
                self._set(line, REJECTED, may_be_paid=may_be_paid)
            elif not line.stands and not may_be_paid:
                line.may_be_paid = False

    def edit(self, order: int, amount: Decimal | None, currency: str) -> None:
        for line in self._found(order):
            if amount is None or currency not in ("", line.currency):
                continue
            if not amount:
                self.refund(order)
            elif line.stands and not (line.is_percentage and line.lacks_amount):
                line.lower(amount)

    # What staff do.

    def decide(self, line: Line, status: str) -> type[Exception] | bool:
        if status == line.status:
            return False
        if (line.status, status) == (APPROVED, PENDING):
            return ValueError
        if not line.stands:
            if self._has_its_place_taken(line):
                return NotCredited
            line.is_reopened = True
        self._set(line, status)
        return True

    def adjust(self, line: Line, payout: Decimal, amount: Decimal) -> type[Exception] | bool:
        if not line.stands:
            return False
        is_paid = line.payout is not None and not line.person.is_test
        if (payout and not is_paid) or (amount and line.amount is None) or not (payout or amount):
            return ValidationError
        new_payout, new_amount = (
            (line.payout or NOTHING) + payout,
            (line.amount or NOTHING) + amount,
        )
        if new_payout < 0 or (amount and new_amount < 0):
            return ValidationError
        # What is finer than its currency may be adjusted to what is not.
        for change, new, currency in (
            (payout, new_payout, line.payout_currency),
            (amount, new_amount, line.currency),
        ):
            if change % UNITS[currency] and new % UNITS[currency]:
                return ValidationError
        line.payout = None if line.payout is None else new_payout
        line.amount = None if line.amount is None else new_amount
        return True

    def fill_in(self, line: Line, amount: Decimal, currency: str) -> type[Exception] | bool:
        if amount % UNITS[currency]:
            return ValidationError
        if not line.lacks_amount:
            return False
        line.amount, line.currency, line.was_counted_with_amount = amount, currency, True
        line.payout, line.payout_currency = line.deal.payout(amount, currency)
        return True

    def end_hold_periods(self) -> int:
        due = [line for line in self.lines if line.waits_for_its_day]
        for line in due:
            self._set(line, APPROVED)
        return len(due)

    def stop_for_fraud(self, partner: int) -> int:
        self.stopped[partner] = True
        pending = [line for line in self.of(partner) if line.status == PENDING]
        for line in pending:
            self._set(line, REJECTED)
        for line in self.of(partner):
            line.may_be_paid = False
        return len(pending)

    # What is paid.

    def of(self, partner: int) -> list[Line]:
        return [line for line in self.lines if line.person.partner == partner]

    def has(self, order: int | None) -> bool:
        return any(line.order == order for line in self.lines)

    def book(self) -> None:
        """End a step."""
        for line in self.lines:
            if line.is_settled and line.due() != line.earned:
                line.changes.append((self.step, line.due() - line.earned))
            line.earned = line.due()
        self.step += 1

    def unsettled(
        self, partner: int, currency: str, until: int, cut_off: CutOff, *, settle: bool = False
    ) -> list[Decimal]:
        """Return what the next statement pays of all until a step; let it be settled, or not."""
        by_order = cut_off == CutOff.ORDERED
        found = []
        for line in self.of(partner):
            if line.payout is None or line.payout_currency != currency or line.person.is_test:
                continue
            if by_order and line.created_in > until:
                continue
            is_in_time = by_order or line.decided_in <= until
            if not line.is_settled and line.status == APPROVED and is_in_time:
                found.append(line.earned)
                line.is_settled = settle
            elif line.is_settled and line.status != PENDING:
                found += [change for step, change in line.changes if by_order or step <= until]
                if settle:
                    later = [change for change in line.changes if change[0] > until]
                    line.changes = [] if by_order else later
        return found

    # The rules about places.

    def _found(self, order: int) -> list[Line]:
        """Return the line of an order and that of its test, the one that stands before others."""
        found: dict[bool, Line] = {}
        for line in self.lines:
            if line.order == order:
                so_far = found.get(line.person.is_test)
                if so_far is None or not so_far.stands:
                    found[line.person.is_test] = line
        return list(found.values())

    def _has_its_place_taken(self, line: Line) -> bool:
        return any(
            other.stands
            and other is not line
            and (
                (other.order, other.person.is_test) == (line.order, line.person.is_test)
                or (other.person is line.person and line.deal.counting == "once")
            )
            for other in self.lines
        )

    def _is_closed_by_a_line(self, person: Person) -> bool:
        return any(line.person is person and line.stands and line.closes for line in self.lines)

    def _set(self, line: Line, status: str, *, may_be_paid: bool = False) -> None:
        line.status, line.may_be_paid = status, may_be_paid
        line.waits_for_its_day, line.decided_in = False, self.step
        person = line.person
        if line.closes and line.stands:
            person.is_closed = True
        elif line.closes and not self.stopped[person.partner]:
            person.is_closed = self._is_closed_by_a_line(person)


def deals(payouts: list[tuple[str, str | None, str]]) -> st.SearchStrategy[Deal]:
    return st.builds(
        lambda payout, counting, closes, approval: Deal(
            payout[0], payout[1] and Decimal(payout[1]), payout[2], counting, closes, *approval
        ),
        st.sampled_from(payouts),
        st.sampled_from(["every", "once"]),
        st.booleans(),
        st.sampled_from([("manual", None), ("automatic", None), ("automatic", 14)]),
    )


PERCENT = deals([("percent", "12.5", ""), ("percent", "33.3333", "")])
OTHER = deals([("percent", "10", ""), ("fixed", "7", "EUR"), ("fixed", "700", "JPY"),
               ("none", None, "")])  # fmt: skip

orders, lines = st.integers(0, 3), st.integers(0, 6)
people = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 4, 5])
totals = st.sampled_from(["100", "100", "60", "60", "19.99", "0.04", "1000", "0", None]).map(
    lambda text: None if text is None else Decimal(text)
)
currencies = st.sampled_from(["EUR"] * 8 + ["JPY", ""])
#: Of the payout and of the amount.
changes = st.sampled_from(
    [("-5", "0"), ("-10", "0"), ("-12", "0"), ("-30", "0"), ("2.50", "0"), ("-0.01", "-30"),
     ("0", "-30"), ("30", "50"), ("-1000", "0"), ("0", "-1000"), ("0", "0")]
).map(lambda pair: (Decimal(pair[0]), Decimal(pair[1])))  # fmt: skip


class Shop(RuleBasedStateMachine):
    """A shop with two partners, and the books that say what must be true of them."""

    @initialize(deals=st.tuples(PERCENT, OTHER))
    def opens(self, deals: tuple[Deal, Deal]) -> None:
        self.transaction = transaction.atomic()
        self.transaction.__enter__()
        self.partners = [PartnerFactory() for _ in deals]
        for partner, deal in zip(self.partners, deals, strict=True):
            SubscriptionFactory(partner=partner, trigger=PLACED, **vars(deal))
        own, customer, self.staff = UserFactory(), UserFactory(), UserFactory(is_staff=True)
        self.partners[0].users.add(own)
        people = [
            Person(VisitorFactory(partner=self.partners[0]), 0),
            Person(VisitorFactory(partner=self.partners[1], user=customer), 1),
            Person(VisitorFactory(partner=self.partners[1]), 1),
            Person(VisitorFactory(partner=self.partners[0]), 0),
            Person(VisitorFactory(partner=self.partners[0], user=own), 0, is_own=True),
            Person(VisitorFactory(partner=self.partners[0], is_test=True), 0, is_test=True),
        ]
        self.books = Books([*deals], people)
        self.orders: list[Order] = []
        #: The conversions of the lines, by their number.
        self.keys: list[int] = []
        #: When each step was over.
        self.moments: list[datetime] = []
        self.statements: dict[int, dict[str, Any]] = {}
        for number, person in enumerate([0, 1, 2]):
            self.save_order(number, person, Decimal(100), "EUR", late=False, then="")

    def teardown(self) -> None:
        try:
            self.what_is_not_settled_is_as_the_rules_say()
            self.everything_is_decided_and_settled()
        finally:
            transaction.set_rollback(True)
            self.transaction.__exit__(None, None, None)

    # What the shop reports.

    @rule(
        number=orders,
        person=people,
        total=totals,
        currency=currencies,
        late=st.booleans(),
        then=st.sampled_from(["", "", "paid", "declined"]),
    )
    def save_order(
        self,
        number: int,
        person: int,
        total: Decimal | None,
        currency: str,
        late: bool,
        then: str,
    ) -> None:
        """In one transaction; its total may be saved last."""
        if number >= len(self.orders):
            self.orders.append(Order())
        order, buyer = self.orders[min(number, len(self.orders) - 1)], self.books.people[person]
        if late and then:
            # Without a currency, a fixed payout would be paid before that is known. And the amount
            # is waited for if the only conversion needs it, not if a test is decided beside it.
            currency = currency or "EUR"
            late = not buyer.is_test and not self.books.has(order.pk)
        order.affiliate_visitor, order.user = buyer.visitor, buyer.visitor.user
        order.total, order.currency = None if late else total, currency
        order.save()
        if late:
            order.total = total
            order.save()
        if then:
            (order_paid if then == "paid" else card_declined).send(Order, instance=order)
        commit()
        line = self.books.credit(order.pk, buyer, total, currency)
        self._note(line)
        if then == "paid":
            self.books.pay(order.pk, total, currency)
        elif then == "declined":
            self.books.refund(order.pk, may_be_paid=True)

    @precondition(lambda self: self.orders)
    @rule(number=orders, edited=st.none() | st.tuples(totals, currencies))
    def pay(self, number: int, edited: tuple[Decimal | None, str] | None) -> None:
        order = self._send(order_paid, number, edited)
        self.books.pay(order.pk, order.total, order.currency)

    @precondition(lambda self: self.orders)
    @rule(number=orders)
    def decline(self, number: int) -> None:
        self.books.refund(self._send(card_declined, number).pk, may_be_paid=True)

    @precondition(lambda self: self.orders)
    @rule(number=orders)
    def refund(self, number: int) -> None:
        self.books.refund(self._send(order_refunded, number).pk)

    @precondition(lambda self: self.orders)
    @rule(number=orders, total=totals, currency=currencies, times=st.integers(1, 2))
    def edit(self, number: int, total: Decimal | None, currency: str, times: int) -> None:
        for _ in range(times):
            order = self._send(order_edited, number, (total, currency))
            self.books.edit(order.pk, total, currency)

    @precondition(lambda self: any(line.waits_for_its_day for line in self.books.lines))
    @rule(days=st.sampled_from([1, 15]))
    def let_days_pass(self, days: int) -> None:
        approved = decisions.approve_due(timezone.now() + timedelta(days=days))
        assert approved == (self.books.end_hold_periods() if days > 14 else 0)

    # What staff do.

    @precondition(lambda self: self.keys)
    @rule(
        number=lines,
        statuses=st.lists(st.sampled_from([PENDING, APPROVED, REJECTED]), min_size=1, max_size=3),
    )
    def decide(self, number: int, statuses: list[str]) -> None:
        for status in statuses:
            conversion, line = self._line(number)
            expected = self.books.decide(line, status)
            assert expected == _outcome(
                partial(decisions.decide, conversion, status, by=self.staff)
            )

    @precondition(lambda self: self.keys)
    @rule(number=lines, change=changes)
    def adjust(self, number: int, change: tuple[Decimal, Decimal]) -> None:
        conversion, line = self._line(number)
        payout, amount = change
        expected = self.books.adjust(line, payout, amount)
        assert expected == _outcome(
            lambda: adjustments.adjust(
                conversion, payout=payout, amount=amount or None, reason="Agreed", by=self.staff
            )
        )

    @precondition(lambda self: any(line.lacks_amount for line in self.books.lines))
    @rule(number=lines, amount=totals.filter(bool), currency=currencies.filter(bool))
    def fill_in_amount(self, number: int, amount: Decimal, currency: str) -> None:
        conversion, line = self._line(number)
        expected = self.books.fill_in(line, amount, currency)
        assert expected == _outcome(lambda: adjustments.fill_in(conversion, amount, currency))

    @precondition(lambda self: self.orders)
    @rule(number=orders, person=people, total=totals, currency=currencies)
    def credit_manually(
        self, number: int, person: int, total: Decimal | None, currency: str
    ) -> None:
        order, buyer = self._order(number), self.books.people[person]
        buyer.visitor.refresh_from_db()
        line = self.books.credit(order.pk, buyer, total, currency, manual=True)
        with suppress(NotCredited):
            recording.record(
                buyer.visitor,
                PLACED,
                user=buyer.visitor.user,
                reference=f"testapp.order:{order.pk}",
                amount=total,
                currency=currency,
                manual=True,
                by=self.staff,
                reason="Told by telephone",
            )
        self._note(line)

    @rule(
        partner=st.integers(0, 1),
        currency=st.sampled_from(["EUR", "JPY"]),
        ago=st.integers(0, 3),
        cut_off=st.sampled_from(CutOff),
    )
    def settle(self, partner: int, currency: str, ago: int, cut_off: CutOff) -> None:
        """Settle what was decided and changed until now, or until some steps ago."""
        self.what_is_not_settled_is_as_the_rules_say()
        moments = [*self.moments, timezone.now()]
        until = max(len(moments) - 1 - ago, 0)
        settled = settlements.settle(
            self.partners[partner], currency, moments[until], cut_off=cut_off
        )
        if self.books.stopped[partner]:
            assert settled is None
            return
        expected = self.books.unsettled(partner, currency, until, cut_off, settle=True)
        assert (settled is None) <= (not expected)
        if settled is not None:
            assert settled.total == sum(expected)
            self.statements[settled.pk] = Settlement.objects.values().get(pk=settled.pk)

    @precondition(lambda self: self.books.step > 20)
    @rule(partner=st.integers(0, 1))
    def stop_for_fraud(self, partner: int) -> None:
        stopped = decisions.stop_for_fraud(self.partners[partner], reason="Own orders")
        assert stopped == self.books.stop_for_fraud(partner)

    @precondition(lambda self: any(self.books.stopped))
    @rule(partner=st.integers(0, 1))
    def reactivate(self, partner: int) -> None:
        assert self.partners[partner].reactivate() == self.books.stopped[partner]
        self.books.stopped[partner] = False

    # What must be true.

    @invariant()
    def the_ledger_is_true(self) -> None:
        self.conversions_are_as_the_rules_say()
        self.no_reference_is_credited_twice()
        self.no_statement_changes()

    def conversions_are_as_the_rules_say(self) -> None:
        commit()
        self.books.book()
        self.moments.append(timezone.now())
        self.rows = list(Conversion.objects.with_adjustments().order_by("pk"))
        assert [_facts(row) for row in self.rows] == [
            (key, line.order, line.person.visitor.pk, self.partners[line.person.partner].pk,
             line.status, line.amount, line.currency, line.payout, line.payout_currency)
            for key, line in zip(self.keys, self.books.lines, strict=True)
        ]  # fmt: skip

    def no_reference_is_credited_twice(self) -> None:
        stands = Counter(
            (row.reference, row.is_test) for row in self.rows if row.status != REJECTED
        )
        assert set(stands.values()) <= {1}

    def what_is_not_settled_is_as_the_rules_say(self) -> None:
        now = timezone.now()
        for cut_off in CutOff:
            left = unpaid.balances(now, held_back=None, cut_off=cut_off)
            for number, partner in enumerate(self.partners):
                for currency in ("EUR", "JPY"):
                    balance = left.pop((partner.pk, currency), settlements.Balance())
                    until = len(self.moments)
                    expected = self.books.unsettled(number, currency, until, cut_off)
                    assert balance.total == sum(expected)
            assert not left

    def no_statement_changes(self) -> None:
        assert {row["id"]: row for row in Settlement.objects.values()} == self.statements
        lines: Counter[int | None] = Counter()
        for row in self.rows:
            if row.settlement_id:
                lines[row.settlement_id] += row.payout  # type: ignore[assignment]
            for adjustment in row.adjustments.all():
                lines[adjustment.settlement_id] += adjustment.payout  # type: ignore[assignment]
        for pk, row in self.statements.items():
            assert lines[pk] == row["earned"] + row["adjusted"]

    def everything_is_decided_and_settled(self) -> None:
        """In the end partners have what their approved conversions are worth, to the cent."""
        for conversion in Conversion.objects.filter(status=PENDING):
            assert decisions.decide(conversion, APPROVED)
        for partner in self.partners:
            for currency in ("EUR", "JPY"):
                approved = Conversion.objects.filter(
                    partner=partner, payout_currency=currency, status=APPROVED, is_test=False
                )
                earned = sum(row.current_payout for row in approved.with_adjustments())
                theirs = Settlement.objects.filter(partner=partner, currency=currency)
                left = unpaid.balance(partner, currency, timezone.now())
                assert sum(row.total for row in theirs) + left.total == earned
                settlements.settle(partner, currency, timezone.now())
                left = unpaid.balance(partner, currency, timezone.now())
                assert sum(row.total for row in theirs.all()) + left.total == earned
                assert partner.is_stopped or not left

    def _order(self, number: int) -> Order:
        return self.orders[number % len(self.orders)]

    def _send(
        self, signal: Signal, number: int, edited: tuple[Decimal | None, str] | None = None
    ) -> Order:
        order = self._order(number)
        if edited is not None:
            order.total, order.currency = edited
        signal.send(Order, instance=order)
        commit()
        return order

    def _line(self, number: int) -> tuple[Conversion, Line]:
        number %= len(self.keys)
        return Conversion.objects.get(pk=self.keys[number]), self.books.lines[number]

    def _note(self, expected: Line | None) -> None:
        """Keep the key of the conversion that was recorded, if it was to be."""
        new = Conversion.objects.exclude(pk__in=self.keys).values_list("pk", flat=True)
        assert len(new) == (expected is not None)
        self.keys += new


def _facts(row: Conversion) -> tuple[Any, ...]:
    order = int(row.reference.partition(":")[2])
    money = row.current_amount, row.currency, row.current_payout, row.payout_currency
    return (row.pk, order, row.visitor_id, row.partner_id, row.status, *money)


def _outcome(act: Any) -> type[Exception] | bool:
    try:
        return bool(act())
    except (NotCredited, ValidationError, ValueError) as error:
        return type(error)


@pytest.mark.slow
def test_partners_are_paid_to_the_cent_whatever_happens(wire: Any) -> None:
    wire(TRIGGERS)
    examples = max(1, hypothesis_settings.default.max_examples // 8)
    run_state_machine_as_test(
        Shop,
        settings=hypothesis_settings(
            hypothesis_settings.default, max_examples=examples, stateful_step_count=40
        ),
    )
