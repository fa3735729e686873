"""
Measure the Admin with a long history: ``python -m benchmarks.volume``.

Fills its own PostgreSQL database with ten million visitors and a million conversions of one year,
with their callbacks and attempts. This takes five to ten minutes and 6 GB. Then requests lists,
filters, partners' pages and reports through the whole of Django, and compares the times to aims.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
os.environ.setdefault("AFFILIATIONS_TEST_DATABASE", "postgresql")
os.environ.setdefault("AFFILIATIONS_TEST_NAME", "volume")
django.setup()

from django.contrib.auth import get_user_model  # noqa: E402
from django.db import connection  # noqa: E402
from django.db.models import Max  # noqa: E402
from django.test import Client  # noqa: E402

from affiliations.dates import Interval, Period  # noqa: E402
from affiliations.models import (  # noqa: E402
    Callback,
    CallbackAttempt,
    Conversion,
    DailyClicks,
    FilteredClicks,
    Partner,
    RollupState,
    Settlement,
    Subscription,
    UncreditedTrigger,
    Visitor,
)
from affiliations.reports import queries, rollups  # noqa: E402
from affiliations.reports.numbers import Dimension  # noqa: E402
from benchmarks.tables import tables  # noqa: E402

VISITORS, CONVERSIONS, PARTNERS, DAYS = 10_000_000, 1_000_000, 3_000, 365
#: Maximum seconds for a page, a report of 90 days, and its file with a row per day and sub id.
PAGE, REPORT, FILE = 0.3, 1.0, 30.0

#: A few partners send most visitors, and the number of visitors grows over time. One partner in ten
#: gives each click a different sub id.
FILL_VISITORS = """
INSERT INTO affiliations_visitor (id, partner_id, referred_on, entry_point, referrer, successful_on,
    closed_on, click_id, sub1, sub2, sub3, sub4, sub5, is_test)
SELECT n, partner, came, 'https://shop.example/teas/' || n %% 500 || '/',
    'https://blog.example/posts/' || n %% 3000 || '/',
    CASE n %% %(each)s WHEN 1 THEN came END, NULL, md5(n::text),
    'campaign-' || (hashint4(n) & 7), 'place-' || (hashint4(n + 1) & 15),
    CASE WHEN partner %% 3 = 0 THEN 'banner-' || (hashint4(n + 2) & 31) ELSE '' END, '',
    CASE WHEN partner %% 10 = 0 THEN md5(n::text || 1) ELSE '' END, n %% 1000 = 1
FROM (
    SELECT n,
        1 + floor(power((hashint4(n + 3) & 65535) / 65536.0, 3) * %(partners)s)::int AS partner,
        now() - interval '1 day' * %(days)s * (1 - power(n / %(visitors)s::float, 0.8))
            - interval '1 minute' * (hashint4(n + 4) & 31) AS came
    FROM generate_series(%(first)s, %(last)s) AS numbers(n)
) AS visitors
"""
FILL_CONVERSIONS = """
INSERT INTO affiliations_conversion (visitor_id, partner_id, subscription_id, trigger, reference,
    dedupe_key, amount, currency, payout_type, payout_value, payout, payout_currency, status,
    reason, review_reason, notified_events, decided_on, is_test, created_on, sub1, sub2, sub3, sub4,
    sub5, settlement_id)
SELECT id, partner_id, 2 * partner_id - second, CASE second WHEN 1 THEN 'User registered' ELSE
    'Order placed' END, 'order-' || id, 'r:' || md5(id::text) || id, amount, currency, 'percent', 8,
    round(amount * 0.08, 2), currency, status, '',
    CASE WHEN status = 'pending' AND (hashint4(id + 5) & 63) = 0 THEN 'screened' ELSE '' END, '[]',
    CASE WHEN status <> 'pending' THEN made + interval '14 days' END, is_test, made,
    sub1, sub2, sub3, sub4, sub5,
    -- All but the last months are paid.
    CASE WHEN status = 'approved' AND NOT is_test
        AND made + interval '14 days' < date_trunc('month', now()) - interval '1 month'
        THEN partner_id + %(partners)s * extract(month FROM made + interval '14 days')::int END
FROM (
    SELECT id, partner_id, is_test, sub1, sub2, sub3, sub4, sub5,
        ((hashint4(id) & 3) = 0)::int AS second,
        least(now(), referred_on + interval '1 hour' * (hashint4(id + 1) & 63)) AS made,
        5 + (hashint4(id + 2) & 16383) / 100.0 AS amount,
        CASE WHEN partner_id %% 5 = 0 THEN 'DKK' WHEN partner_id %% 7 = 0 THEN 'USD' ELSE 'EUR' END
            AS currency,
        CASE WHEN (hashint4(id + 3) & 15) = 0 THEN 'rejected' WHEN (hashint4(id + 3) & 15) = 1 THEN
            'pending' ELSE 'approved' END AS status
    FROM affiliations_visitor WHERE id %% %(each)s = 1
) AS converted
"""
#: Each month has a statement of each partner.
FILL_STATEMENTS = """
INSERT INTO affiliations_settlement (id, partner_id, currency, reference, cut_off, before,
    conversion_count, earned, adjustment_count, adjusted, year, year_number, paid_on,
    payment_reference, created_on, created_by_name)
SELECT id, partner_id, currency, '', 'approved', until, number, earned, 0, 0,
    extract(year FROM until)::int,
    row_number() OVER (PARTITION BY extract(year FROM until) ORDER BY until, id), until, '', until,
    ''
FROM (
    SELECT settlement_id AS id, partner_id, payout_currency AS currency, count(*) AS number,
        sum(payout) AS earned, date_trunc('month', max(decided_on)) + interval '1 month' AS until
    FROM affiliations_conversion WHERE settlement_id IS NOT NULL
    GROUP BY settlement_id, partner_id, payout_currency
) AS paid
"""
#: For as many visitors, a trigger fired that the partner does not subscribe to.
FILL_UNCREDITED = """
INSERT INTO affiliations_uncreditedtrigger (visitor_id, trigger, reason, reference, count, first_on,
    last_on)
SELECT id, 'Newsletter ordered', 'not_subscribed', '', 1, referred_on, referred_on
FROM affiliations_visitor WHERE id %% %(each)s = 2
"""
#: Most are delivered at once. Of a hundred, three need a second attempt, and one gave up. Those of
#: test conversions are cancelled, and staff have sent some test callbacks.
FILL_CALLBACKS = """
INSERT INTO affiliations_callback (id, conversion_id, subscription_id, partner_id, event, version,
    url, body, status, reason, attempt_count, resend_count, is_manual, next_attempt_on, lease_token,
    delivered_on, created_on, webhook_id, is_test)
SELECT id, conversion_id, subscription_id, partner_id, event, 1,
    'https://partner.example/callback?click_id=' || md5(id::text || 1), '', status, '',
    CASE WHEN status = 'exhausted' THEN 10 WHEN is_test AND event = 'conversion' THEN 0
        WHEN (hashint4(id::int) & 31) = 0 THEN 2 ELSE 1 END, 0,
    false, created_on, '', CASE status WHEN 'delivered' THEN created_on + interval '1 second' END,
    created_on, md5(id::text), is_test
FROM (
    SELECT 2 * id AS id, id AS conversion_id, subscription_id, partner_id, created_on, is_test,
        'conversion' AS event, CASE WHEN is_test THEN 'cancelled' ELSE
            CASE hashint4(id::int + 7) & 127 WHEN 0 THEN 'exhausted' WHEN 1 THEN 'queued'
                WHEN 2 THEN 'cancelled' ELSE 'delivered' END END AS status
    FROM affiliations_conversion
    UNION ALL
    SELECT 2 * id + 1, NULL, subscription_id, partner_id, created_on, true, 'test', 'delivered'
    FROM affiliations_conversion WHERE id %% 500 = 0
) AS reported
"""
FILL_ATTEMPTS = """
INSERT INTO affiliations_callbackattempt (callback_id, number, manual, started_on, duration_ms,
    status_code, error, message, response_excerpt, is_test)
SELECT id, number, false, created_on + interval '1 minute' * number, 150,
    CASE WHEN accepted THEN 200 WHEN (hashint4(id::int) & 1) = 0 THEN 503 END,
    CASE WHEN accepted THEN '' WHEN (hashint4(id::int) & 1) = 0 THEN 'http_status'
        ELSE 'timeout' END,
    '', CASE WHEN accepted THEN 'ok' ELSE '' END, is_test
FROM (
    SELECT id, created_on, is_test, number,
        status = 'delivered' AND number = attempt_count AS accepted
    FROM affiliations_callback, generate_series(1, attempt_count) AS numbers(number)
) AS tried
"""
#: A partner has clicks of three of four reasons on each day.
FILL_FILTERED = """
INSERT INTO affiliations_filteredclicks (key, partner_id, day, reason, count)
SELECT partner || ':' || ago || ':' || reason, partner, current_date - ago,
    (ARRAY['bot', 'prefetch', 'duplicate_click', 'subresource'])[reason], 1 + (partner + ago) %% 9
FROM generate_series(1, %(partners)s) AS partners(partner),
    generate_series(0, %(days)s - 1) AS days(ago), generate_series(1, 4) AS reasons(reason)
WHERE (hashint4(partner * 1000 + ago * 4 + reason) & 3) <> 0
"""
FILLED = (
    Visitor,
    Conversion,
    Settlement,
    UncreditedTrigger,
    FilteredClicks,
    Partner,
    Subscription,
    Callback,
    CallbackAttempt,
)
#: Rows inserted by one statement.
BATCH = 500_000


def fill(visitors: int, conversions: int, partners: int, days: int) -> None:
    """Insert the history."""
    Partner.objects.bulk_create(
        Partner(pk=number, name=f"Partner {number}", active=True)
        for number in range(1, partners + 1)
    )
    Subscription.objects.bulk_create(
        Subscription(pk=2 * number - second, partner_id=number, trigger=trigger, counting="every")
        for number in range(1, partners + 1)
        for second, trigger in enumerate(("Order placed", "User registered"))
    )
    each = visitors // conversions
    numbers = {"visitors": visitors, "partners": partners, "days": days, "each": each}
    with connection.cursor() as cursor:
        # Skip the foreign key checks: the references are correct.
        cursor.execute("SET session_replication_role = replica")
        for first in range(1, visitors + 1, BATCH):
            last = min(first + BATCH - 1, visitors)
            cursor.execute(FILL_VISITORS, numbers | {"first": first, "last": last})
        cursor.execute(FILL_CONVERSIONS, {"each": each, "partners": partners})
        cursor.execute(FILL_STATEMENTS)
        cursor.execute(FILL_UNCREDITED, {"each": each})
        cursor.execute(FILL_FILTERED, {"partners": partners, "days": days})
        cursor.execute(FILL_CALLBACKS, {})
        cursor.execute(FILL_ATTEMPTS)
        for model in FILLED:
            table = model._meta.db_table
            cursor.execute(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}"
            )
            # The database would otherwise start this during a measurement.
            cursor.execute(f"VACUUM ANALYZE {table}")
        cursor.execute("SET session_replication_role = DEFAULT")
        cursor.execute("CHECKPOINT")


def count() -> None:
    """Count the clicks into daily totals, except the last thousandth."""
    began = time.perf_counter()
    last = Visitor.objects.aggregate(last=Max("pk"))["last"]
    RollupState.objects.update_or_create(pk=1, defaults={"seen": last - last // 1000})
    passed = sum(rollups.count(margin=timedelta(0)))
    with connection.cursor() as cursor:
        cursor.execute(f"VACUUM ANALYZE {DailyClicks._meta.db_table}")
    print(
        f"{passed:,} visitors counted into {DailyClicks.objects.count():,} rows in "
        f"{time.perf_counter() - began:.0f} s",
        flush=True,
    )


def took(times: int, call: Callable[[], object]) -> float:
    """Return the median of the call's seconds, after one call that is not measured."""
    call()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def figures() -> dict[str, tuple[Callable[[], object], float]]:
    """Return the calls to measure, with the maximum seconds of each."""
    client = Client()
    user, _ = get_user_model().objects.get_or_create(
        username="staff", is_staff=True, is_superuser=True
    )
    client.force_login(user)

    def page(path: str, site: str = "/admin/affiliations/") -> Callable[[], object]:
        def get() -> None:
            response = client.get(f"{site}{path}")
            assert response.status_code == 200, (path, response.status_code)
            if response.streaming:
                deque(response, maxlen=0)

        return get

    period = Period.past(90)
    since = f"since={period.first}&until={period.last}"
    long_ago = period.first - timedelta(days=100)
    middle = Visitor.objects.order_by("-pk")[1000]
    conversion = Conversion.objects.order_by("-pk")[1000]
    callback = Callback.objects.order_by("-pk")[1000]
    pages = [
        "overview/",
        "partner/",
        "partner/?q=Partner+7",
        "partner/?o=-6",
        "partner/?o=-3&period=last-month",
        "partner/1/change/",
        "partner/1/deal/",
        "partner/1/callbacks/",
        "partner/150/change/",
        "visitor/",
        "visitor/?p=90",
        "visitor/?partner=Partner+1",
        "visitor/?partner=Partner+150",
        f"visitor/?{since}",
        f"visitor/?partner=Partner+1&{since}",
        f"visitor/?since={long_ago}&until={long_ago}",
        f"visitor/?q={middle.click_id}",
        f"visitor/{middle.pk}/change/",
        "conversion/",
        "conversion/?status__exact=pending",
        "conversion/?status__exact=rejected",
        "conversion/?review=needed",
        "conversion/review/",
        "conversion/?trigger=User+registered",
        "conversion/?trigger=Other",
        f"conversion/?status__exact=rejected&partner=Partner+150&{since}",
        f"conversion/?since={long_ago}&until={long_ago}",
        f"conversion/?q={conversion.reference}",
        f"conversion/{conversion.pk}/change/",
        f"conversion/{conversion.pk}/adjust/",
        "conversion/adjust-list/",
        "conversion/?is_test__exact=1",
        "conversion/?is_test__exact=0",
        "visitor/?is_test__exact=1",
        "visitor/?is_test__exact=0",
        "visitor/?success=yes",
        "visitor/?success=no",
        "callback/",
        "callback/?p=90",
        f"callback/?since={long_ago}&until={long_ago}",
        "callback/?status__exact=exhausted",
        "callback/?status__exact=queued",
        "callback/?gave_up=30",
        "callback/?event__exact=rejection",
        "callback/?event__exact=test",
        "callback/?trigger=User+registered",
        "callback/?trigger=Other",
        "callback/?subscription=1",
        "callback/?is_test__exact=1",
        "callback/?is_test__exact=0",
        f"callback/?partner=Partner+1&{since}",
        f"callback/?status__exact=exhausted&partner=Partner+150&{since}",
        f"callback/?q={conversion.reference}",
        f"callback/{callback.pk}/change/",
        "callbackattempt/",
        f"callbackattempt/?since={long_ago}&until={long_ago}",
        "callbackattempt/?error__exact=timeout",
        "callbackattempt/?error__exact=dns",
        "callbackattempt/?trigger=User+registered",
        "callbackattempt/?trigger=Other",
        "callbackattempt/?is_test__exact=1",
        "callbackattempt/?is_test__exact=0",
        "callbackattempt/?partner=Partner+1",
        "callbackattempt/?partner=Partner+150",
        f"callbackattempt/?partner=Partner+150&{since}",
        f"callbackattempt/?error__exact=timeout&partner=Partner+1&{since}",
        f"callbackattempt/?q={conversion.reference}",
        "settlement/add/",
        f"settlement/add/?cut_off=ordered&until={long_ago}",
        "settlement/payments/?statements=1-500",
        "settlement/?paid=no",
        "settlement/add/?partner=1",
        "settlement/add/?partner=1&currency=EUR",
        "subscription/",
        "subscription/?callbacks=failing",
        "subscription/1/change/",
        "settlement/",
    ]
    found: dict[str, tuple[Callable[[], object], float]] = {
        path: (page(path), PAGE) for path in pages
    }
    partner = Partner.objects.get(pk=1)
    partner.replace_page_link()
    partners = list(Partner.objects.order_by("name")[:100])
    found |= {
        "the Admin’s index": (page("", site="/admin/"), PAGE),
        "the partner page": (page(str(partner.page_link()), site=""), PAGE),
        "the partner page, a year": (page(f"{partner.page_link()}?days=365", site=""), PAGE),
        "figures of 100 partners, 30 days": (
            lambda: queries.by_partner(partners, Period.past(30)),
            PAGE,
        ),
        "figures of one partner by day, 30 days": (
            lambda: queries.report(Period.past(30), interval=Interval.DAY, partners=[partner]),
            PAGE,
        ),
    }
    for interval in Interval:
        for dimension in ("", *Dimension):
            asked = f"report/?period=90&interval={interval}&dimension={dimension}"
            found[asked] = (page(asked), REPORT)
    for rows in ("arrivals", "arrivals-by-partner"):
        asked = f"report/csv/?period=90&rows={rows}"
        found[asked] = (page(asked), REPORT)
    for dimension in ("", *Dimension):
        asked = f"report/csv/?period=90&interval={Interval.DAY}&dimension={dimension}"
        found[asked] = (page(asked), FILE)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visitors", type=int, default=VISITORS)
    parser.add_argument("--conversions", type=int, default=CONVERSIONS)
    parser.add_argument("--partners", type=int, default=PARTNERS)
    parser.add_argument("--days", type=int, default=DAYS, help="Days of history.")
    parser.add_argument("--times", type=int, default=5, help="Measurements per median; 5.")
    parser.add_argument("--keep", action="store_true", help="Keep the database for the next run.")
    parser.add_argument("--no-totals", action="store_true", help="Measure without daily totals.")
    options = parser.parse_args()
    with tables(keep=options.keep):
        began = time.perf_counter()
        if not Visitor.objects.exists():
            fill(options.visitors, options.conversions, options.partners, options.days)
        print(f"{options.visitors:,} visitors, {options.conversions:,} conversions", flush=True)
        print(f"filled in {time.perf_counter() - began:.0f} s", flush=True)
        if not options.no_totals:
            count()
        for name, (call, aim) in figures().items():
            seconds = took(options.times, call)
            late = "" if seconds <= aim else "  <-- slower than the aim"
            print(f"{name:60}{seconds * 1000:9,.0f} ms{late}", flush=True)


if __name__ == "__main__":
    main()
