from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any, NamedTuple

from django.core.management.base import BaseCommand, CommandError

from affiliations import db
from affiliations.callbacks.maintenance import HEALTH_DAYS, health
from affiliations.models import FailedTrigger


class Command(BaseCommand):
    help = "Checks the delivery of callbacks, and exits with 1 if a limit is exceeded."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--format",
            choices=_FORMATS,
            default="text",
            help="Format of the figures. Defaults to text.",
        )
        parser.add_argument(
            "--max-age",
            type=int,
            default=300,
            metavar="SECONDS",
            help="Maximum age of a due callback. Defaults to 300.",
        )
        parser.add_argument("--max-due", type=int, help="Maximum number of due callbacks.")
        parser.add_argument(
            "--max-exhausted",
            type=int,
            help="Maximum number of exhausted callbacks, which the Admin shows as “gave up”.",
        )
        parser.add_argument(
            "--days",
            type=int,
            default=HEALTH_DAYS,
            help="Count callbacks that were exhausted within this number of days. Defaults to "
            f"{HEALTH_DAYS}.",
        )
        parser.add_argument(
            "--max-suspended", type=int, help="Maximum number of suspended subscriptions."
        )
        parser.add_argument(
            "--max-failed-triggers",
            type=int,
            help="Maximum number of triggers that failed because of the database and were given "
            "up.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["days"] < 1:
            raise CommandError("--days must be 1 or more.")
        figures = _figures(options["days"])
        _FORMATS[options["format"]](self.stdout.write, figures, options["days"])
        limits = {
            "age": options["max_age"],
            "due": options["max_due"],
            "exhausted": options["max_exhausted"],
            "suspended": options["max_suspended"],
            "failed triggers": options["max_failed_triggers"],
        }
        values = dict(zip(limits, _limited(figures), strict=True))
        exceeded = [
            f"{name} > {limit}{' s' * (name == 'age')}"
            for name, limit in limits.items()
            if limit is not None and values[name] > limit
        ]
        if exceeded:
            raise CommandError(f"Limits exceeded: {', '.join(exceeded)}.")


class Figures(NamedTuple):
    """The figures that the command prints. For Prometheus, each name has a prefix."""

    callbacks_due: int
    callbacks_oldest_due_seconds: float
    callbacks_exhausted: int
    subscriptions_suspended: int
    failed_triggers_waiting: int
    failed_triggers_given_up: int
    clock_ahead_seconds: float


def _figures(days: int) -> Figures:
    now, failed = health(days=days), FailedTrigger.objects.using(db.write_alias())
    return Figures(
        callbacks_due=now.due,
        callbacks_oldest_due_seconds=round(now.oldest_due.total_seconds(), 3),
        callbacks_exhausted=now.exhausted,
        subscriptions_suspended=now.suspended,
        failed_triggers_waiting=failed.waiting().count(),
        failed_triggers_given_up=failed.given_up().count(),
        clock_ahead_seconds=round(now.skew.total_seconds(), 3),
    )


def _limited(figures: Figures) -> tuple[float, ...]:
    """Return the figures that have a limit, in the order of the options."""
    return (
        figures.callbacks_oldest_due_seconds,
        figures.callbacks_due,
        figures.callbacks_exhausted,
        figures.subscriptions_suspended,
        figures.failed_triggers_given_up,
    )


def _write_text(write: Write, now: Figures, days: int) -> None:
    write(
        f"Callbacks due: {now.callbacks_due} (oldest: {now.callbacks_oldest_due_seconds:.0f} s), "
        f"exhausted in the past {days} days: {now.callbacks_exhausted}. "
        f"Subscriptions suspended: {now.subscriptions_suspended}. "
        f"Failed triggers waiting: {now.failed_triggers_waiting}, "
        f"given up: {now.failed_triggers_given_up}."
    )
    seconds = round(now.clock_ahead_seconds)
    order = "behind" if seconds < 0 else "ahead of"
    write(f"Clock: {abs(seconds)} s {order} the database's.")


def _write_json(write: Write, now: Figures, days: int) -> None:
    write(json.dumps(now._asdict()))


def _write_prometheus(write: Write, now: Figures, days: int) -> None:
    """Write the text format of Prometheus, for the textfile collector of its node exporter."""
    for name, value in now._asdict().items():
        write(f"# TYPE affiliations_{name} gauge\naffiliations_{name} {value}")


Write = Callable[[str], object]
_FORMATS: dict[str, Callable[[Write, Figures, int], None]] = {
    "text": _write_text,
    "json": _write_json,
    "prometheus": _write_prometheus,
}
