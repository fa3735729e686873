"""The same work in a small database and in one with a million visitors, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from django.db import connections
from django.utils import timezone

from affiliations.callbacks import claims
from affiliations.callbacks.slots import Slots
from affiliations.models import Callback, CallbackAttempt, Conversion, Visitor
from benchmarks import costs
from benchmarks.measure import Row, Work, fastest
from benchmarks.tables import Router, tables

MODELS = (Visitor, Conversion, Callback, CallbackAttempt)
#: Visitors by database. One in fifty converts.
VISITORS = {"default": 5_000, "large": 1_000_000}
PARTNERS = 100
#: Visitors that Django inserts; the database copies them.
FIRST = 10_000
VALUES, TURNS = 3, 20
DUE = 50
GOAL = "1.20"


def fill(visitors: int) -> None:
    """Insert visitors and conversions, whose callbacks are delivered at the first attempt."""
    subscriptions = [costs.subscribed(name=f"Partner {number}") for number in range(PARTNERS)]
    first, now = min(visitors, FIRST), timezone.now()
    Visitor.objects.bulk_create(
        Visitor(
            partner=subscriptions[number % PARTNERS].partner,
            referred_on=now - timedelta(days=60) * (1 - number / first),
            entry_point="https://shop.example/teas/assam/?utm_source=partner",
            referrer=f"https://partner.example/posts/{number % 300}/",
            click_id=f"{number:032x}",
            sub1="blog",
        )
        for number in range(first)
    )
    connection = connections[Router.alias]
    names = [field.column for field in Visitor._meta.local_fields if not field.primary_key]
    columns = ", ".join(map(connection.ops.quote_name, names))
    # Each copy has other click ids, or the index would be smaller than it is.
    copied = columns.replace(
        connection.ops.quote_name("click_id"), "REPLACE(click_id, '00000000', %s)"
    )
    with connection.cursor() as cursor:
        for number in range(1, visitors // first):
            cursor.execute(
                f"INSERT INTO affiliations_visitor ({columns}) SELECT {copied} "
                f"FROM affiliations_visitor ORDER BY id LIMIT {first}",
                [f"{number:08x}"],
            )
    by_partner = {subscription.partner_id: subscription for subscription in subscriptions}
    Conversion.objects.bulk_create(
        (
            Conversion(
                visitor=visitor,
                partner_id=visitor.partner_id,
                subscription=by_partner[visitor.partner_id],
                trigger="Order placed",
                reference=f"order-{visitor.pk}",
                dedupe_key=f"r:{visitor.pk:032x}",
                reference_key=f"{visitor.pk:064x}",
                status="approved",
                created_on=visitor.referred_on,
            )
            for visitor in Visitor.objects.order_by("-pk")[: visitors // 50]
        ),
        batch_size=5_000,
    )
    Callback.objects.bulk_create(
        (
            Callback(
                conversion=conversion,
                subscription_id=conversion.subscription_id,
                partner_id=conversion.partner_id,
                url="https://partner.example/?c=42",
                status="delivered",
                delivered_on=now,
                attempt_count=1,
                next_attempt_on=conversion.created_on,
            )
            for conversion in Conversion.objects.order_by("pk")
        ),
        batch_size=5_000,
    )
    CallbackAttempt.objects.bulk_create(
        (
            CallbackAttempt(
                callback=callback,
                number=1,
                started_on=callback.created_on,
                duration_ms=150,
                status_code=200,
                response_excerpt="ok",
            )
            for callback in Callback.objects.order_by("pk")
        ),
        batch_size=5_000,
    )
    # What the database would otherwise start during a measurement.
    commands = {"postgresql": "VACUUM ANALYZE", "mysql": "ANALYZE TABLE", "sqlite": "ANALYZE"}
    with connection.cursor() as cursor:
        for model in MODELS:
            cursor.execute(f"{commands[connection.vendor]} {model._meta.db_table}")
        if connection.vendor == "postgresql":
            cursor.execute("CHECKPOINT")
            cursor.execute("SET synchronous_commit = off")


def landing() -> Work:
    return list(costs.landings().values())[-1]


def conversion() -> Work:
    return list(costs.conversions().values())[-1]


def claiming() -> Work:
    """Claim due callbacks, each of another partner, and release them."""
    due = [row.pk for row in Callback.objects.order_by("-pk")[:DUE]]
    Callback.objects.filter(pk__in=due).update(status="queued", next_attempt_on=timezone.now())

    def run(count: int) -> None:
        for _ in range(count):
            claimed = claims.claim(DUE, Slots())
            assert len(claimed) == DUE, len(claimed)
            claims.release(claimed)

    return Work(run)


def using(alias: str, prepare: Callable[[], Work]) -> Work:
    """Return a work that uses one database."""
    Router.alias = alias
    work = prepare()

    def begin() -> None:
        Router.alias = alias
        work.begin()

    return Work(work.run, begin)


WORKS = {
    f"claim and release {DUE} callbacks": claiming,
    "landing": landing,
    "conversion": conversion,
}


def rows() -> Iterator[Row | str]:
    few, many = VISITORS.values()
    with tables(set(VISITORS)):
        for alias, visitors in VISITORS.items():
            Router.alias = alias
            fill(visitors)
        yield f"With {many:,} visitors beside {few:,} ({connections['default'].vendor})"
        for name, prepare in WORKS.items():
            works = {alias: using(alias, prepare) for alias in VISITORS}
            values = [fastest(works, 2, TURNS, time.perf_counter) for _ in range(VALUES)]
            ratios = [value["large"] / value["default"] for value in values]
            figure = costs.microseconds(value["large"] for value in values)
            yield Row(name, figure, ratios, GOAL)
        Router.alias = "default"
