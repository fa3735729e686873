"""Say how the delivery of callbacks is doing."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from affiliations.callbacks.health import DAYS, health


class Command(BaseCommand):
    """Print the figures, and fail where one is past its limit."""

    help = "Say how the delivery of callbacks is doing; exits with 1 past a limit, for monitoring."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Say what the command line knows."""
        parser.add_argument(
            "--max-age",
            type=int,
            default=300,
            metavar="SECONDS",
            help="How long a callback may have been due; 300 by default.",
        )
        parser.add_argument("--max-due", type=int, help="How many may be due.")
        parser.add_argument("--max-exhausted", type=int, help="How many may have failed for good.")
        parser.add_argument(
            "--days",
            type=int,
            default=DAYS,
            help=f"Count what has failed for good in the last so many days; {DAYS} by default.",
        )
        parser.add_argument("--max-suspended", type=int, help="How many may be suspended.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Measure, print, compare."""
        if options["days"] < 1:
            raise CommandError("--days must be 1 or more.")
        now = health(days=options["days"])
        self.stdout.write(
            f"{now.due} due, the oldest for {now.oldest_due.total_seconds():.0f} s; "
            f"{now.exhausted} exhausted in {options['days']} days; "
            f"{now.suspended} subscriptions suspended."
        )
        limits = {
            "due": (now.due, options["max_due"]),
            "exhausted": (now.exhausted, options["max_exhausted"]),
            "suspended": (now.suspended, options["max_suspended"]),
        }
        past = [f"{name} is past {limit}" for name, (value, limit) in limits.items()
                if limit is not None and value > limit]  # fmt: skip
        if now.oldest_due > timedelta(seconds=options["max_age"]):
            past.insert(0, f"the oldest has been due for more than {options['max_age']} s")
        if past:
            raise CommandError("; ".join(past))
