"""
A shop with some weeks of data, and all of its pages, for the browser tests and the screenshots.

It has three partners, their visitors and orders, callbacks that were accepted and that failed, a
partner whose server is down, settlements, and corrections of them. The data are the same each time,
except for the dates.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING, Any

from django.contrib.auth import get_user_model
from django.db import transaction
from django.utils import timezone

from affiliations.conversions import adjustments, decisions, payouts, settlements
from affiliations.exceptions import Reason
from affiliations.models import (
    Callback,
    CallbackAttempt,
    Conversion,
    FailedTrigger,
    FilteredClicks,
    FollowedTestLink,
    Partner,
    PartnerCode,
    RecentFilteredClick,
    Settlement,
    Subscription,
    UncreditedTrigger,
    Visitor,
)
from tests.factories import UserFactory

if TYPE_CHECKING:
    from tests.chromium import Window

PASSWORD = "secret"

#: Name, share of the clicks, callback URL.
PARTNERS = (
    ("Steep Notes", 6, "https://steepnotes.example/track?click={click_id}&sum={payout}"),
    ("The Kettle Review", 3, "https://kettle.example/postback/{visitor_id}?status={status}"),
    ("Leaf & Cup", 1, ""),
)
#: So long they have had a shop: what is settled was decided in the month before this one.
DAYS = 60
CAMPAIGNS = ("review", "newsletter", "sidebar", "")


@transaction.atomic
def furnish() -> dict[str, Any]:
    """Fill an empty database; return the rows that pages are shown of, by the page's name."""
    random = Random("the same each time")
    now = timezone.now().replace(hour=10, minute=30, second=0, microsecond=0)
    staff = UserFactory(
        email="staff@shop.example", is_staff=True, is_superuser=True, **_named("staff")
    )
    partners = [_partner(*each, now - timedelta(days=DAYS)) for each in PARTNERS]
    clicks = [
        Visitor(
            partner=partner,
            referred_on=now - timedelta(days=day, minutes=random.randint(0, 600)),
            entry_point="https://shop.example/teas/assam-breakfast/",
            referrer="https://steepnotes.example/best-breakfast-teas/",
            click_id=f"{random.randrange(16**8):08x}",
            sub1=random.choice(CAMPAIGNS),
        )
        for day in range(DAYS, -1, -1)
        for partner, (_name, share, _url) in zip(partners, PARTNERS, strict=True)
        for _ in range(random.randint(share, 3 * share))
    ]
    Visitor.objects.bulk_create(clicks)
    number = 1000
    # Read again, since MariaDB gives no keys to what is made in bulk.
    for visitor in Visitor.objects.select_related("partner").order_by("pk"):
        if random.random() < 0.12:
            number += 1
            _order(random, visitor, number, visitor.referred_on + timedelta(minutes=34))
    steep_notes, kettle, _leaf = partners
    _last_things(steep_notes, now)
    _tried(steep_notes, now)
    suspended = _suspended(kettle, now)
    settlement, adjusted = _settled(steep_notes, staff, now)
    _flagged(steep_notes, kettle)
    steep_notes.replace_page_link()
    steep_notes.terms = "No coupons.\nPaid monthly.\n\nEither side may end this at any time."
    steep_notes.save(update_fields=["terms"])
    failed = Callback.objects.filter(status=Callback.Status.EXHAUSTED).latest("pk")
    theirs = Conversion.objects.filter(partner=steep_notes)
    return {
        "partner": steep_notes,
        "partner-suspended": kettle,
        "subscription": steep_notes.subscriptions.get(trigger="Order placed"),
        "subscription-suspended": suspended,
        "visitor": steep_notes.visitors.filter(conversions__isnull=False).latest("pk"),
        "conversion": theirs.filter(status="pending").latest("pk"),
        "conversion-rejected": theirs.filter(status="rejected", settlement=None).latest("pk"),
        "conversion-adjusted": adjusted,
        "callback": failed,
        "callback-held": suspended.callbacks.queued().latest("pk"),
        "callbackattempt": failed.attempts.latest("number"),
        "settlement": settlement,
        "adjustment": adjusted.adjustments.get(),
        "failedtrigger": _fails(steep_notes, now),
        "recentfilteredclick": RecentFilteredClick.objects.latest("pk"),
    }


def _named(name: str) -> dict[str, str]:
    return {"username": name} if get_user_model().USERNAME_FIELD == "username" else {}


def _partner(name: str, share: int, url: str, created_on: Any) -> Partner:
    partner = Partner.objects.create(name=name, active=True)
    Partner.objects.filter(pk=partner.pk).update(created_on=created_on)
    code = "".join(filter(str.isalnum, name))
    for text, active in ((code, True), (f"{code}-{'winter-2026-' * 3}"[:39] + "x", share > 1)):
        PartnerCode.objects.create(partner=partner, code=text, active=active)
    Subscription.objects.create(
        partner=partner,
        trigger="Order placed",
        callback_url=url,
        counting=Subscription.Counting.EVERY,
        closes_referral=False,
        payout_type=Subscription.PayoutType.PERCENT,
        payout_value=Decimal(7),
        approval=Subscription.Approval.MANUAL,
        call_on_approval=bool(url),
    )
    Subscription.objects.create(
        partner=partner,
        trigger="User registered",
        callback_url=url,
        closes_referral=False,
        payout_type=Subscription.PayoutType.FIXED,
        payout_value=Decimal(2),
        payout_currency="EUR",
    )
    return partner


def _order(random: Random, visitor: Visitor, number: int, on: Any) -> None:
    """Write an order as if it had been counted on a day that is over."""
    amount = Decimal(random.randint(900, 9000)) / 100
    status = random.choices(["approved", "pending", "rejected"], [12, 2, 1])[0]
    decided_on = on + timedelta(days=1)
    if decided_on > timezone.now():
        status = "pending"
    subscription = visitor.partner.subscriptions.get(trigger="Order placed")
    conversion = Conversion.objects.create(
        visitor=visitor,
        partner=visitor.partner,
        subscription=subscription,
        trigger="Order placed",
        reference=f"{number}",
        dedupe_key=f"r:{number}",
        amount=amount,
        currency="EUR",
        payout_type="percent",
        payout_value=Decimal(7),
        payout=(amount * 7 / 100).quantize(Decimal("0.01")),
        payout_currency="EUR",
        status=status,
        reason="The goods came back." if status == "rejected" else "",
        created_on=on,
        decided_on=None if status == "pending" else decided_on,
    )
    Visitor.objects.filter(pk=visitor.pk).update(successful_on=on)
    if not subscription.callback_url:
        return
    fails = random.random() < 0.08
    callback = Callback.objects.create(
        conversion=conversion,
        subscription=subscription,
        partner=visitor.partner,
        url=subscription.callback_url.format(
            click_id=visitor.click_id,
            payout=conversion.payout,
            visitor_id=visitor.pk,
            status=status,
        ),
        status="exhausted" if fails else "delivered",
        attempt_count=3 if fails else 1,
        delivered_on=None if fails else on,
        created_on=on,
        next_attempt_on=on,
    )
    for attempt in range(1, callback.attempt_count + 1):
        CallbackAttempt.objects.create(
            callback=callback,
            number=attempt,
            started_on=on + timedelta(minutes=5 * (attempt - 1)),
            duration_ms=random.randint(40, 400),
            status_code=503 if fails else 200,
            error=CallbackAttempt.Error.HTTP_STATUS if fails else "",
            response_excerpt="Down for maintenance" if fails else "OK",
        )


def _last_things(partner: Partner, now: Any) -> None:
    """Add what arrived and was not counted."""
    for reason, count, browser in (
        (Reason.BOT, 41, ""),
        (Reason.AGENT, 5, ""),
        (Reason.PREFETCH, 17, "Chrome"),
        (Reason.DUPLICATE_CLICK, 8, "Firefox"),
    ):
        for _ in range(count):
            FilteredClicks.objects.add(partner, reason)
            RecentFilteredClick.objects.add(partner, reason, partner.uid, browser)
    FilteredClicks.objects.add(None, Reason.UNKNOWN_PARTNER)
    RecentFilteredClick.objects.add(None, Reason.UNKNOWN_PARTNER, f"{partner.uid[:-1]}?", "Safari")
    visitor = partner.visitors.latest("pk")
    UncreditedTrigger.objects.add(visitor, "User registered", Reason.NOT_SUBSCRIBED, "", now)


def _flagged(*partners: Partner) -> None:
    """Let some of the partners' orders need review: one of the partner's own, one of no amount."""
    for partner, reason, text, amount in (
        (partners[0], Reason.SCREENED, "The buyer is the partner.", Decimal("54.90")),
        (partners[1], Reason.SCREENED, "The visitor is the partner.", Decimal("23.50")),
        (partners[0], Reason.NO_AMOUNT, payouts.NO_AMOUNT, None),
    ):
        visitor = partner.visitors.filter(is_test=False, conversions=None).latest("pk")
        on = visitor.referred_on + timedelta(minutes=3)
        Conversion.objects.create(
            visitor=visitor,
            partner=partner,
            subscription=partner.subscriptions.get(trigger="Order placed"),
            trigger="Order placed",
            user=UserFactory(email=f"buyer{visitor.pk}@shop.example"),
            reference=f"{3000 + visitor.pk}",
            dedupe_key=f"r:{3000 + visitor.pk}",
            amount=amount,
            currency="EUR",
            payout_type="percent",
            payout_value=Decimal(7),
            payout=amount and (amount * 7 / 100).quantize(Decimal("0.01")),
            payout_currency="EUR" if amount else "",
            status="pending",
            reason=text,
            review_reason=reason,
            review_text=text,
            created_on=on,
        )


def _fails(partner: Partner, now: Any) -> FailedTrigger:
    """Add triggers that failed, and return the one that was given up."""
    visitor = partner.visitors.latest("pk")
    for tries in (1, 2, 10):
        failed = FailedTrigger.objects.create(
            trigger="Order placed",
            kind=FailedTrigger.Kind.CREDIT,
            visitor=visitor,
            reference=f"{2000 + tries}",
            amount=Decimal(30),
            currency="EUR",
            error="OperationalError('database is locked')",
            tries=tries,
            due_on=now + timedelta(minutes=tries),
        )
    return failed


def _tried(partner: Partner, now: Any) -> None:
    """Add that somebody has tried the deal, and called the partner for a test."""
    tried_on = now - timedelta(days=1)
    visitor = Visitor.objects.create(
        partner=partner, is_test=True, referred_on=tried_on, successful_on=tried_on
    )
    FollowedTestLink.objects.bulk_create(
        FollowedTestLink(
            partner=partner,
            nonce="1",
            reason=reason,
            browser=browser,
            visitor=None if reason else visitor,
            followed_on=tried_on + timedelta(minutes=minutes),
        )
        for minutes, reason, browser in ((0, "", "Firefox"), (3, "test_used", "Chrome"))
    )
    subscription = partner.subscriptions.get(trigger="Order placed")
    test = Callback.objects.create(
        subscription=subscription,
        partner=partner,
        event=Callback.Event.TEST,
        url=subscription.callback_url.format(click_id="test-click", payout="7.00"),
        status=Callback.Status.DELIVERED,
        attempt_count=1,
        created_on=tried_on,
        delivered_on=tried_on,
        next_attempt_on=tried_on,
    )
    CallbackAttempt.objects.create(
        callback=test,
        number=1,
        started_on=tried_on,
        duration_ms=83,
        status_code=200,
        response_excerpt="1",
    )


def _suspended(partner: Partner, now: Any) -> Subscription:
    """Let the partner's server have been down since their last orders; return what is suspended."""
    subscription = partner.subscriptions.get(trigger="Order placed")
    lost = list(subscription.callbacks.order_by("-pk").values_list("pk", flat=True)[:3])
    subscription.callbacks.filter(pk__in=lost).update(
        status=Callback.Status.QUEUED, delivered_on=None
    )
    CallbackAttempt.objects.filter(callback__in=lost).update(
        status_code=503,
        error=CallbackAttempt.Error.HTTP_STATUS,
        response_excerpt="Down for maintenance",
    )
    Subscription.objects.filter(pk=subscription.pk).update(
        failure_count=12,
        failing_since=now - timedelta(days=2),
        callbacks_suspended_on=now - timedelta(hours=5),
        last_error=CallbackAttempt.Error.HTTP_STATUS,
        last_status_code=503,
    )
    paused = partner.subscriptions.get(trigger="User registered")
    Subscription.objects.filter(pk=paused.pk).update(
        failure_count=3,
        failing_since=now - timedelta(hours=2),
        callbacks_paused_until=now + timedelta(minutes=40),
        pause_count=3,
        last_error=CallbackAttempt.Error.TIMEOUT,
    )
    partner.replace_page_link()
    subscription.refresh_from_db()
    return subscription


def _settled(partner: Partner, staff: Any, now: Any) -> tuple[Settlement, Conversion]:
    """
    Settle twice, and find something wrong with each settlement.

    Return the second, which makes good what was wrong with the first, and a conversion of its own
    that was corrected since. That one, and another that was rejected, go off the next.
    """
    month = now.replace(day=1)

    def settle(days: int, reference: str) -> Settlement:
        before = month - timedelta(days=days)
        settled = settlements.settle(partner, "EUR", before, by=staff, reference=reference)
        assert settled is not None
        Settlement.objects.filter(pk=settled.pk).update(created_on=before + timedelta(hours=3))
        return settled

    def adjust(settled: Settlement, days: int) -> Conversion:
        conversion = settled.conversions.latest("amount")
        reason = "One of two teas came back."
        adjustments.adjust(conversion, payout=Decimal("-1.50"), reason=reason, by=staff)
        conversion.adjustments.update(created_on=month - timedelta(days=days))
        return conversion

    adjust(settle(21, "Voucher 2041"), days=15)
    settlement = settle(10, "Voucher 2057")
    adjusted = adjust(settlement, days=4)
    rejected = settlement.conversions.exclude(pk=adjusted.pk).latest("pk")
    decisions.decide(rejected, "rejected", reason="The goods came back.", by=staff)
    rejected.adjustments.update(created_on=month - timedelta(days=3))
    return settlement, adjusted


LISTS = (
    "partner",
    "subscription",
    "visitor",
    "conversion",
    "callback",
    "callbackattempt",
    "settlement",
    "adjustment",
    "failedtrigger",
    "recentfilteredclick",
    "report",
    "overview",
)
#: The pages that something else is shown of than of the others.
SHOWN = {
    "subscription-resume": "subscription-suspended",
    "conversion-reopen": "conversion-rejected",
    "conversion-adjust": "conversion-adjusted",
    "callback-cancel": "callback-held",
}


def object_views() -> Iterator[tuple[str, str]]:
    """Yield the model and the name of every page that a row of it has beside its form."""
    for model_admin in _model_admins():
        for name in getattr(model_admin, "object_views", ()):
            if name != "download":  # A file.
                yield model_admin.opts.model_name, name


def questions() -> Iterator[tuple[str, str]]:
    """Yield the model and the name of every action of a list that asks first."""
    for model_admin in _model_admins():
        for name in model_admin.actions:
            # A download, and a page that the tour opens by its address.
            if name not in ("accounting_file", "enter_payment"):
                yield model_admin.opts.model_name, name


def _model_admins() -> list[Any]:
    from django.contrib import admin

    return [
        model_admin
        for model, model_admin in admin.site._registry.items()
        if model._meta.app_label == "affiliations"
    ]


def pages(shown: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and the path of each page that there is to see."""
    from django.urls import reverse

    yield "admin", reverse("admin:index")
    yield "index", reverse("admin:app_list", args=["affiliations"])
    for model in LISTS:
        yield f"{model}-list", reverse(f"admin:affiliations_{model}_changelist")
    yield "conversion-review", reverse("admin:affiliations_conversion_review")
    yield "partner-add", reverse("admin:affiliations_partner_add")
    for name, row in shown.items():
        address = f"admin:affiliations_{row._meta.model_name}_change"
        yield name, reverse(address, args=[row.pk])
    for part in ("deal", "callbacks"):
        address = f"admin:affiliations_partner_{part}"
        yield f"partner-{part}", reverse(address, args=[shown["partner"].pk])
    for model, page in object_views():
        name = f"{model}-{page.replace('_', '-')}"
        row = shown[SHOWN.get(name, model)]
        yield name, reverse(f"admin:affiliations_{model}_{page}", args=[row.pk])
    yield "conversion-adjust-list", reverse("admin:affiliations_conversion_adjust_list")
    partner, settlement = shown["partner"], shown["settlement"]
    settling = reverse("admin:affiliations_settlement_add")
    yield "settlement-add", settling
    month = timezone.now().date().replace(day=1)
    until = month - timedelta(days=1)
    yield (
        "settlement-payments",
        reverse("admin:affiliations_settlement_payments") + (f"?statements=1-{settlement.pk}"),
    )
    yield "settlement-settle", f"{settling}?partner={partner.pk}&currency=EUR&until={until}"
    own = partner.page_link()
    yield "own-page", own
    yield "own-page-statement", f"{own}settlements/{settlement.pk}/"
    yield "own-page-link", f"{own}?link-page=/teas/&link-click_id={{clickid}}&link-sub1=mail"
    yield "own-page-refused-link", f"{own}?link-page=https://elsewhere.example/"
    yield "own-page-failing", shown["partner-suspended"].page_link()


def tour(window: Window, site: str, shown: dict[str, Any]) -> Iterator[str]:
    """Go to each page that there is to see, and yield its name."""
    from django.urls import reverse

    for name, path in pages(shown):
        window.page.goto(site + path)
        yield name
    for model, action in questions():
        window.page.goto(site + reverse(f"admin:affiliations_{model}_changelist"))
        for box in window.page.locator("[name=_selected_action]").all()[:3]:
            box.check()
        window.page.locator("[name=action]").select_option(action)
        window.page.locator("[name=index]").click()
        window.page.wait_for_load_state()
        yield f"{model}-{action.replace('_', '-')}"
    # The console complains of what is not there, as it should.
    complaints = list(window.complaints)
    window.page.goto(f"{site}{shown['partner'].page_link()[:-3]}zz/")
    window.complaints[:] = complaints
    yield "own-page-not-found"
