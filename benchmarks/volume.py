"""
Measure the desk of the staff over a long history: ``python -m benchmarks.volume``.

A PostgreSQL database of its own is filled with ten million visitors and a million conversions of
one year, with their callbacks and attempts; that takes five to ten minutes and 6 GB. Then lists,
filters, partners' pages and reports are asked for as a browser does, through the whole of Django,
and beside each stands its aim.
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

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.volume_settings")
os.environ.setdefault("AFFILIATIONS_TEST_DATABASE", "postgresql")
os.environ.setdefault("AFFILIATIONS_TEST_NAME", "volume")
django.setup()

from django.contrib.auth import get_user_model  # noqa: E402
from django.db import connection  # noqa: E402
from django.db.models import Max  # noqa: E402
from django.test import Client  # noqa: E402

from affiliations import reports, totals  # noqa: E402
from affiliations.models import (  # noqa: E402
    Callback,
    CallbackAttempt,
    ClickCount,
    Conversion,
    DailyClicks,
    Partner,
    Subscription,
    UncountedTrigger,
    Visitor,
)
from affiliations.periods import Period, Step  # noqa: E402
from affiliations.reports import By  # noqa: E402
from benchmarks.tables import tables  # noqa: E402

VISITORS, CONVERSIONS, PARTNERS, DAYS = 10_000_000, 1_000_000, 200, 365
#: Seconds that a page may take, a report of 90 days, and its file with a row a day and label.
PAGE, REPORT, FILE = 0.3, 1.0, 30.0

#: A few partners send most visitors. The later, the more come, and in the evening more than at
#: night. One partner in ten gives each click a label of its own.
FILL_VISITORS = """
INSERT INTO affiliations_visitor (id, partner_id, referred_on, entry_point, referrer, successful_on,
    closed_on, click_id, sub1, sub2, sub3, sub4, sub5, is_test)
SELECT n, partner, came, 'https://shop.example/teas/' || n %% 500 || '/',
    'https://blog.example/posts/' || n %% 3000 || '/',
    CASE n %% %(each)s WHEN 1 THEN came END, NULL, md5(n::text),
    'campaign-' || (hashint4(n) & 7), 'place-' || (hashint4(n + 1) & 15),
    CASE WHEN partner %% 3 = 0 THEN 'banner-' || (hashint4(n + 2) & 31) ELSE '' END, '',
    CASE WHEN partner %% 10 = 0 THEN md5(n::text || 1) ELSE '' END, n %% 1000 = 0
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
    reason, doubt, told, decided_on, is_test, created_on, sub1, sub2, sub3, sub4, sub5)
SELECT id, partner_id, 2 * partner_id - second, CASE second WHEN 1 THEN 'User registered' ELSE
    'Order placed' END, 'order-' || id, 'r:' || md5(id::text) || id, amount, currency, 'percent', 8,
    round(amount * 0.08, 2), currency, status, '', '', '[]',
    CASE WHEN status <> 'pending' THEN made + interval '14 days' END, false, made,
    sub1, sub2, sub3, sub4, sub5
FROM (
    SELECT id, partner_id, sub1, sub2, sub3, sub4, sub5, ((hashint4(id) & 3) = 0)::int AS second,
        least(now(), referred_on + interval '1 hour' * (hashint4(id + 1) & 63)) AS made,
        5 + (hashint4(id + 2) & 16383) / 100.0 AS amount,
        CASE WHEN partner_id %% 5 = 0 THEN 'DKK' WHEN partner_id %% 7 = 0 THEN 'USD' ELSE 'EUR' END
            AS currency,
        CASE WHEN (hashint4(id + 3) & 15) = 0 THEN 'rejected' WHEN (hashint4(id + 3) & 15) = 1 THEN
            'pending' ELSE 'approved' END AS status
    FROM affiliations_visitor WHERE id %% %(each)s = 1 AND NOT is_test
) AS converted
"""
#: Of as many visitors something fired that their partners do not subscribe to.
FILL_UNCOUNTED = """
INSERT INTO affiliations_uncountedtrigger (visitor_id, trigger, reason, reference, count, first_on,
    last_on)
SELECT id, 'Newsletter ordered', 'not_subscribed', '', 1, referred_on, referred_on
FROM affiliations_visitor WHERE id %% %(each)s = 2
"""
#: Most are delivered at once. Of a hundred three need a second attempt, and one comes to nothing.
FILL_CALLBACKS = """
INSERT INTO affiliations_callback (id, conversion_id, subscription_id, partner_id, event, edition,
    url, status, reason, attempt_count, resend_count, is_manual, next_attempt_on, lease_token,
    delivered_on, created_on, webhook_id)
SELECT id, id, subscription_id, partner_id, 'conversion', 1,
    'https://partner.example/callback?click_id=' || md5(visitor_id::text), status, '',
    CASE WHEN status = 'exhausted' THEN 10 WHEN (hashint4(id::int) & 31) = 0 THEN 2 ELSE 1 END, 0,
    false, created_on, '', CASE status WHEN 'delivered' THEN created_on + interval '1 second' END,
    created_on, md5(id::text)
FROM (
    SELECT id, visitor_id, subscription_id, partner_id, created_on,
        CASE hashint4(id::int + 7) & 127 WHEN 0 THEN 'exhausted' WHEN 1 THEN 'held'
            WHEN 2 THEN 'cancelled' ELSE 'delivered' END AS status
    FROM affiliations_conversion
) AS told
"""
FILL_ATTEMPTS = """
INSERT INTO affiliations_callbackattempt (callback_id, number, manual, started_on, duration_ms,
    status_code, error, message, response_excerpt)
SELECT id, number, false, created_on + interval '1 minute' * number, 150,
    CASE WHEN taken THEN 200 WHEN (hashint4(id::int) & 1) = 0 THEN 503 END,
    CASE WHEN taken THEN '' WHEN (hashint4(id::int) & 1) = 0 THEN 'http_status' ELSE 'timeout' END,
    '', CASE WHEN taken THEN 'ok' ELSE '' END
FROM (
    SELECT id, created_on, number, status = 'delivered' AND number = attempt_count AS taken
    FROM affiliations_callback, generate_series(1, attempt_count) AS numbers(number)
) AS tried
"""
FILLED = (Visitor, Conversion, UncountedTrigger, Partner, Subscription, Callback, CallbackAttempt)
#: So many rows are inserted by one statement.
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
        # What refers to what is right here, and need not be looked up ten million times.
        cursor.execute("SET session_replication_role = replica")
        for first in range(1, visitors + 1, BATCH):
            last = min(first + BATCH - 1, visitors)
            cursor.execute(FILL_VISITORS, numbers | {"first": first, "last": last})
        cursor.execute(FILL_CONVERSIONS, {"each": each})
        cursor.execute(FILL_UNCOUNTED, {"each": each})
        cursor.execute(FILL_CALLBACKS)
        cursor.execute(FILL_ATTEMPTS)
        for model in FILLED:
            table = model._meta.db_table
            cursor.execute(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}"
            )
            # As the database does by itself before long.
            cursor.execute(f"VACUUM ANALYZE {table}")
        cursor.execute("SET session_replication_role = DEFAULT")
        cursor.execute("CHECKPOINT")


def count() -> None:
    """Count the clicks into daily totals, but for those of the last thousandth."""
    began = time.perf_counter()
    last = Visitor.objects.aggregate(last=Max("pk"))["last"]
    ClickCount.objects.update_or_create(pk=1, defaults={"seen": last - last // 1000})
    passed = sum(totals.count(margin=timedelta(0)))
    with connection.cursor() as cursor:
        cursor.execute(f"VACUUM ANALYZE {DailyClicks._meta.db_table}")
    print(
        f"{passed:,} visitors counted into {DailyClicks.objects.count():,} rows in "
        f"{time.perf_counter() - began:.0f} s",
        flush=True,
    )


def took(times: int, call: Callable[[], object]) -> float:
    """Return how many seconds it takes, after it was done once."""
    call()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def figures() -> dict[str, tuple[Callable[[], object], float]]:
    """Return what is measured, and how long it may take."""
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
        "partner/",
        "partner/?q=Partner+7",
        "partner/1/change/",
        "partner/150/change/",
        "visitor/",
        "visitor/?p=90",
        "visitor/?partner=Partner+1",
        "visitor/?partner=Partner+150",
        f"visitor/?{since}",
        f"visitor/?partner=Partner+1&{since}",
        f"visitor/?q={middle.click_id}",
        f"visitor/{middle.pk}/change/",
        "conversion/",
        "conversion/?status=pending",
        "conversion/?trigger=User+registered",
        f"conversion/?status=rejected&partner=Partner+150&{since}",
        f"conversion/?q={conversion.reference}",
        f"conversion/{conversion.pk}/change/",
        "conversion/?is_test__exact=1",
        "visitor/?is_test__exact=1",
        "visitor/?success=yes",
        "callback/",
        "callback/?p=90",
        f"callback/?since={long_ago}&until={long_ago}",
        "callback/?status=exhausted",
        "callback/?status=queued",
        "callback/?event=rejection",
        "callback/?trigger=User+registered",
        "callback/?is_test__exact=1",
        f"callback/?partner=Partner+1&{since}",
        f"callback/?status=exhausted&partner=Partner+150&{since}",
        f"callback/?q={conversion.reference}",
        f"callback/{callback.pk}/change/",
        "callbackattempt/",
        f"callbackattempt/?since={long_ago}&until={long_ago}",
        "callbackattempt/?error__exact=timeout",
        "callbackattempt/?error__exact=dns",
        "callbackattempt/?trigger=User+registered",
        "callbackattempt/?is_test__exact=1",
        "callbackattempt/?partner=Partner+1",
        "callbackattempt/?partner=Partner+150",
        f"callbackattempt/?partner=Partner+150&{since}",
        f"callbackattempt/?error__exact=timeout&partner=Partner+1&{since}",
        f"callbackattempt/?q={conversion.reference}",
        "settlement/add/",
        "settlement/add/?partner=1",
        "settlement/add/?partner=1&currency=EUR",
        "subscription/",
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
        "what a partner sees": (page(str(partner.page_link()), site=""), PAGE),
        "what a partner sees of a year": (page(f"{partner.page_link()}?days=365", site=""), PAGE),
        "numbers of 100 partners, 30 days": (
            lambda: reports.by_partner(partners, Period.past(30)),
            PAGE,
        ),
        "numbers of one partner by day, 30 days": (
            lambda: reports.report(Period.past(30), step=Step.DAY, partners=[partner]),
            PAGE,
        ),
    }
    for step in Step:
        for by in ("", *By):
            asked = f"report/?period=90&step={step}&by={by}"
            found[asked] = (page(asked), REPORT)
    for by in ("", *By):
        asked = f"report/csv/?period=90&step={Step.DAY}&by={by}"
        found[asked] = (page(asked), FILE)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visitors", type=int, default=VISITORS)
    parser.add_argument("--conversions", type=int, default=CONVERSIONS)
    parser.add_argument("--partners", type=int, default=PARTNERS)
    parser.add_argument("--days", type=int, default=DAYS, help="How long ago the first one came.")
    parser.add_argument("--times", type=int, default=5, help="Take the median of so many; 5.")
    parser.add_argument("--keep", action="store_true", help="Leave the database for the next run.")
    parser.add_argument("--no-totals", action="store_true", help="Measure what indexes do alone.")
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
            late = "" if seconds <= aim else "  <-- slower than it may be"
            print(f"{name:60}{seconds * 1000:9,.0f} ms{late}", flush=True)


if __name__ == "__main__":
    main()
