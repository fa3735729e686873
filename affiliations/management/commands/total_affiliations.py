"""Count the clicks of each day beforehand, so that reports of very many are quick."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from affiliations import totals


class Command(BaseCommand):
    """Count the visitors who are not in the daily totals yet, or all of them anew."""

    help = (
        "Count the visitors into daily totals, so that reports of many millions are quick; once a "
        "day, such as at night. Reports are right without it, and while it runs."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Say what the command line knows."""
        parser.add_argument(
            "--rebuild",
            action="store_true",
            help="Throw the totals away first: after a change of TIME_ZONE, or after visitors "
            "were inserted, changed or deleted by other means than this app’s.",
        )
        parser.add_argument(
            "--batch", type=int, default=totals.BATCH, help="Visitors in a transaction."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Count, and say up to whom."""
        if options["batch"] < 1:
            raise CommandError("--batch must be 1 or more.")
        begin = totals.rebuild if options["rebuild"] else totals.count
        passed = 0
        for keys in begin(batch=options["batch"]):
            passed += keys
            if self.stdout.isatty():
                self.stdout.write(f"\r{passed} counted", ending="")
        if self.stdout.isatty():
            self.stdout.write()
        self.stdout.write(f"{passed} visitors counted; those of the last hour, another time.")
