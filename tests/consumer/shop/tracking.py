"""
What a project writes with the public names, and the types that it may count on.

`tox -e consumer` has mypy and pyright check this against the installed package. It never runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, assert_type

from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.utils import timezone
from django.utils.safestring import SafeString

from affiliations import timeline
from affiliations.callbacks import (
    Health,
    deliver,
    health,
    resend,
    resend_anew,
    resume,
    send_test_callback,
)
from affiliations.conversions import (
    Balance,
    LeftOut,
    StatementLine,
    Unpaid,
    adjust,
    approve_due,
    balances,
    decide,
    own_account,
    settle,
    settle_all,
    statement,
    stop_for_fraud,
)
from affiliations.exceptions import InvalidCallBackURL, NotCredited, Reason
from affiliations.links import stripped
from affiliations.models import (
    Adjustment,
    Callback,
    CallbackAttempt,
    Conversion,
    Partner,
    PartnerCode,
    Settlement,
    Subscription,
    Visitor,
)
from affiliations.privacy import PersonalData, blank, personal_data, remove
from affiliations.reports import (
    Arrivals,
    Dimension,
    Interval,
    Numbers,
    Period,
    ReportResult,
    arrivals,
    arrivals_by_partner,
    bars,
    by_partner,
    report,
)
from affiliations.signals import conversion_decided, conversion_recorded
from affiliations.testing import record_callbacks, start_referral
from affiliations.tracking import (
    acurrent_visitor,
    aforget_visitor,
    arefer,
    aregister_visitor,
    current_visitor,
    forget_visitor,
    refer,
    register_visitor,
)
from affiliations.triggers import (
    acomplete_trigger,
    complete_trigger,
    object_created,
    paused,
)
from shop.models import Customer, Order

# Views


def place_order(request: HttpRequest, customer: Customer) -> HttpResponse:
    visitor = current_visitor(request)
    assert_type(visitor, Visitor | None)
    order = Order.objects.create(
        customer=customer, affiliate_visitor=visitor, total=Decimal("49.90"), currency="EUR"
    )
    conversion = complete_trigger(
        request,
        "Order placed",
        instance=order,
        user=customer,
        reference=order.pk,
        amount=order.total,
        currency=order.currency,
        code=["steepnotes"],
    )
    assert_type(conversion, Conversion | None)
    return HttpResponse(conversion.reference if conversion else "")


async def place_order_async(request: HttpRequest, customer: Customer) -> None:
    assert_type(await acurrent_visitor(request), Visitor | None)
    conversion = await acomplete_trigger(request, "Order placed", user=customer, reference="17")
    assert_type(conversion, Conversion | None)


def agree(request: HttpRequest) -> None:
    assert_type(register_visitor(request, "/?affiliate_id=moox6esi"), Visitor | None)
    forget_visitor(request)


async def agree_async(request: HttpRequest) -> None:
    assert_type(await aregister_visitor(request), Visitor | None)
    await aforget_visitor(request)


def call_centre(request: HttpRequest, customer: Customer) -> None:
    assert_type(refer("steepnotes", user=customer, sub1="phone"), Visitor | None)
    assert_type(refer(Partner(), request=request, click_id="42"), Visitor | None)


async def call_centre_async(customer: Customer) -> None:
    assert_type(await arefer("steepnotes", user=customer), Visitor | None)


# Functions that settings name


def friday_order(sender: type[Order], instance: Order, **kwargs: Any) -> None:
    if timezone.localdate().weekday() == 4:
        object_created(sender, instance=instance, **kwargs)


def screen(visitor: Visitor, user: Customer | None, instance: Order | None) -> str | None:
    if instance is not None and instance.total > 1000:
        return "A large order"
    return own_account(visitor, user, instance)


def payout(
    subscription: Subscription, instance: Order | None, amount: Decimal | None, currency: str
) -> Decimal | tuple[Decimal, str] | None:
    assert_type(subscription.partner, Partner)
    assert_type(subscription.trigger, str)
    return None if amount is None else amount / 10


@receiver(conversion_recorded)
@receiver(conversion_decided)
def on_conversion(sender: type[Conversion], conversion: Conversion, **kwargs: object) -> None:
    assert_type(conversion.visitor, Visitor)
    assert_type(conversion.partner, Partner)
    assert_type(conversion.reference, str)
    assert_type(conversion.amount, Decimal | None)
    assert_type(conversion.payout, Decimal | None)
    assert_type(conversion.created_on, datetime)


# Models


def links(partner: Partner, code: PartnerCode) -> list[str]:
    assert_type(partner.uid, str)
    assert_type(partner.active, bool)
    assert_type(partner.attribution_window, timedelta | None)
    assert_type(partner.page_link(), str | None)
    assert_type(partner.replace_signing_secret(), str)
    partner.replace_page_link()
    partner.revoke_page_link()
    return [
        partner.link("/teas/", click_id="42", sub1="newsletter"),
        partner.link_with_macros("/teas/", click_id="{clickid}"),
        partner.test_link(),
        code.link(),
        stripped("/teas/?affiliate_id=moox6esi"),
    ]


def check_urls() -> Iterator[str]:
    for subscription in Subscription.objects.exclude(callback_url=""):
        assert_type(subscription, Subscription)
        try:
            subscription.validate_callback_url()
        except InvalidCallBackURL as error:
            assert_type(error.messages, list[str])
            yield from error.messages


def explain(visitor: Visitor, customer: Customer) -> list[str]:
    visitor.succeed(customer)
    assert_type(visitor.referred_on, datetime)
    assert_type(visitor.successful_on, datetime | None)
    found = timeline.find(click_id="42", user=customer)
    assert_type(found, list[int])
    histories = timeline.build(found)
    assert_type(histories, list[timeline.Timeline])
    return [str(entry) for history in histories for entry in history.entries]


def reason_of(error: NotCredited) -> str:
    assert_type(error.reason, Reason)
    return str(error.reason.label)


# Money


def pay(partner: Partner, conversion: Conversion, staff: Customer) -> list[Decimal]:
    now = timezone.now()
    assert_type(decide(conversion, Conversion.Status.APPROVED, by=staff), bool)
    adjustment = adjust(conversion, payout=Decimal("-1.50"), reason="Returned", by=staff)
    assert_type(adjustment, Adjustment | None)
    assert_type(stop_for_fraud(partner, reason="Fraud", by=staff), int)
    assert_type(approve_due(), int)
    assert_type(balances(now, partner), dict[tuple[int, str], Balance])
    settlement = settle(partner, "EUR", now, by=staff)
    assert_type(settlement, Settlement | None)
    result = settle_all(now, by=staff)
    assert_type(result.settlements, list[Settlement])
    assert_type(result.left_out, list[tuple[Unpaid, LeftOut]])
    lines = statement(result.settlements[0])
    assert_type(lines, Iterator[StatementLine])
    return [line.payout for line in lines]


def numbers(partner: Partner) -> SafeString:
    period = Period.past(30)
    result = report(period, interval=Interval.WEEK, dimension=Dimension.PARTNER, partners=[partner])
    assert_type(result, ReportResult)
    assert_type(result.total, Numbers)
    assert_type(result.total.clicks, int)
    assert_type(result.total.payouts, dict[str, Decimal])
    assert_type(by_partner([partner], period), dict[int, Numbers])
    assert_type(arrivals(period), Arrivals)
    assert_type(arrivals_by_partner(period), dict[int | None, Arrivals])
    return bars("clicks", "Clicks", ["Monday"], {"Clicks": [result.total.clicks]})


# Callbacks and personal data


def callbacks(subscription: Subscription, callback: Callback) -> None:
    assert_type(resend(callback), bool)
    assert_type(resend_anew(callback), Callback | None)
    assert_type(resume(subscription), int)
    assert_type(send_test_callback(subscription), CallbackAttempt)
    assert_type(health(days=1), Health)
    assert_type(health().oldest_due, timedelta)
    assert_type(deliver([callback.pk]).delivered, int)
    assert_type(callback.url, str)


def erase(customer: Customer, partner: Partner) -> int:
    assert_type(personal_data(customer), PersonalData)
    assert_type(blank(customer), PersonalData)
    return sum(remove(partner, Period.past(1)))


# The project's own tests


def test_orders(client: Client, partner: Partner) -> None:
    visitor = start_referral(client, partner, click_id="42")
    assert_type(visitor, Visitor)
    with record_callbacks() as recorded, paused():
        client.post("/order/")
    assert_type(recorded[0], Callback)
    assert_type([callback.url for callback in recorded], list[str])


@record_callbacks()
def test_without_callbacks(client: Client) -> str:
    return "decorated"


@paused()
def import_old_orders(path: str) -> int:
    return len(path)


assert_type(import_old_orders("orders.csv"), int)
assert_type(test_without_callbacks(Client()), str)
