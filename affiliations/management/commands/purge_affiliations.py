"""Remove what is kept long enough, and what somebody does not want to be kept."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from affiliations import privacy
from affiliations.callbacks import retention
from affiliations.management.accounts import account


class Command(BaseCommand):
    """Remove delivered callbacks, expired visitors, and what is kept of one person."""

    help = (
        "Remove callbacks that were delivered long ago, and their attempts; never one still due. "
        "Or, and only where it is asked for, visitors of whom nothing came, and what is kept of "
        "one person."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Say what the command line knows."""
        parser.add_argument(
            "--days",
            type=int,
            help=f"How long delivered callbacks are kept; {retention.DAYS} by default, where "
            "nothing else is asked for.",
        )
        parser.add_argument(
            "--visitors-older-than",
            type=int,
            metavar="DAYS",
            help="Remove the visitors who came longer ago, whose window is over and who had no "
            "conversion; reports keep their number.",
        )
        parser.add_argument(
            "--user",
            help="Blank what is kept of this user, by name or key; references and money stay.",
        )
        parser.add_argument("--batch", type=int, default=retention.BATCH, help="Rows at a time.")
        parser.add_argument("--dry-run", action="store_true", help="Count, and remove nothing.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Remove in batches what is asked for, and say how much."""
        days, age, user = (options[name] for name in ("days", "visitors_older_than", "user"))
        ages = (days or 0, age or 0)
        if not 0 <= min(ages) <= max(ages) <= 36_500 or options["batch"] < 1:
            raise CommandError(
                "--days and --visitors-older-than must be 0 to 36500, --batch 1 or more."
            )
        if days is None and age is None and user is None:
            days = retention.DAYS
        if user is not None:
            self._blank(user, options["batch"], dry_run=options["dry_run"])
        if age is not None:
            self._purge_visitors(_ago(age), options["batch"], dry_run=options["dry_run"])
        if days is not None:
            self._purge_callbacks(_ago(days), options["batch"], dry_run=options["dry_run"])

    def _blank(self, named: str, batch: int, *, dry_run: bool) -> None:
        user = account(named)
        if dry_run:
            found = privacy.traces(user)
            self.stdout.write(
                f"{found.visitors} visitors and {found.callbacks} callbacks would be blanked."
            )
            return
        done = privacy.blank(
            user, batch=batch, progress=lambda done: self._show(f"{done.rows} blanked")
        )
        self._end()
        self.stdout.write(f"{done.visitors} visitors and {done.callbacks} callbacks blanked.")
        if left := privacy.traces(user).callbacks:
            self.stdout.write(f"{left} are being sent at this moment: run it again in a minute.")

    def _purge_visitors(self, before: datetime, batch: int, *, dry_run: bool) -> None:
        if dry_run:
            count = sum(visitors.count() for visitors in privacy.expired(before))
            self.stdout.write(f"{count} visitors would be removed.")
            return
        removed = self._sum(privacy.purge(before, batch=batch))
        self.stdout.write(f"{removed} visitors removed.")

    def _purge_callbacks(self, before: datetime, batch: int, *, dry_run: bool) -> None:
        if dry_run:
            count = retention.delivered_before(before).count()
            self.stdout.write(f"{count} delivered callbacks would be removed.")
            return
        removed = self._sum(retention.purge(before, batch=batch))
        self.stdout.write(f"{removed} delivered callbacks removed.")

    def _sum(self, batches: Iterable[int]) -> int:
        removed = 0
        for batch in batches:
            removed += batch
            self._show(f"{removed} removed")
        self._end()
        return removed

    def _show(self, progress: str) -> None:
        """Count on a terminal, where somebody waits."""
        if self.stdout.isatty():
            self.stdout.write(f"\r{progress}", ending="")

    def _end(self) -> None:
        if self.stdout.isatty():
            self.stdout.write()


def _ago(days: int) -> datetime:
    return timezone.now() - timedelta(days=days)
