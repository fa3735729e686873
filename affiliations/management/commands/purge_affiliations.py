"""Remove what is kept long enough."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from affiliations.callbacks import retention


class Command(BaseCommand):
    """Remove callbacks that were delivered long ago, and their attempts."""

    help = "Remove callbacks that were delivered long ago, and their attempts; never one still due."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Say what the command line knows."""
        parser.add_argument(
            "--days",
            type=int,
            default=retention.DAYS,
            help=f"How long delivered callbacks are kept; {retention.DAYS} by default.",
        )
        parser.add_argument("--batch", type=int, default=retention.BATCH, help="Rows at a time.")
        parser.add_argument("--dry-run", action="store_true", help="Count, and remove nothing.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Remove in batches, and say how many."""
        if options["days"] < 0 or options["batch"] < 1:
            raise CommandError("--days must be 0 or more, --batch 1 or more.")
        before = timezone.now() - timedelta(days=options["days"])
        if options["dry_run"]:
            count = retention.delivered_before(before).count()
            self.stdout.write(f"{count} delivered callbacks would be removed.")
            return
        removed = 0
        for batch in retention.purge(before, batch=options["batch"]):
            removed += batch
            if self.stdout.isatty():
                self.stdout.write(f"\r{removed} removed", ending="")
        if self.stdout.isatty():
            self.stdout.write()
        self.stdout.write(f"{removed} delivered callbacks removed.")
