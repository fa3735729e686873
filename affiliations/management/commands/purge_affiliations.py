from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import CommandError
from django.db.models import QuerySet
from django.utils import timezone

from affiliations import db, privacy
from affiliations.callbacks import maintenance
from affiliations.management import ProgressCommand, find_user
from affiliations.models import RecentFilteredClick, SentForm

#: The age in days at which the token of a form that was sent is removed.
SENT_FORM_DAYS = 7
#: The age in days at which a recent filtered click is removed.
FILTERED_CLICK_DAYS = 90


class Command(ProgressCommand):
    help = (
        "Removes old delivered callbacks with their attempts. Can also remove old visitors "
        "without a conversion, and erase the personal data of one user."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--days",
            type=int,
            help="Remove callbacks that were delivered more than this number of days ago. Defaults "
            f"to {maintenance.DAYS}, unless another kind of data is selected.",
        )
        parser.add_argument(
            "--visitors-older-than",
            type=int,
            metavar="DAYS",
            help="Remove visitors who came more than this number of days ago, have no conversion "
            "and are outside the attribution window. Reports still count their clicks.",
        )
        parser.add_argument(
            "--user",
            help="Erase the personal data of the user with this name or primary key. References "
            "and payouts are kept.",
        )
        parser.add_argument(
            "--batch",
            type=int,
            default=maintenance.BATCH,
            help=f"Rows per transaction. Defaults to {maintenance.BATCH}.",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Print how many rows would be removed or erased, without changing any.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        days, age, user = (options[name] for name in ("days", "visitors_older_than", "user"))
        ages = (days or 0, age or 0)
        if not 0 <= min(ages) <= max(ages) <= 36_500 or options["batch"] < 1:
            raise CommandError(
                "--days and --visitors-older-than must be from 0 to 36500, and --batch must be 1 "
                "or more."
            )
        if days is None and age is None and user is None:
            days = maintenance.DAYS
        batch, dry_run = options["batch"], options["dry_run"]
        if user is not None:
            self._blank(user, batch, dry_run=dry_run)
        if age is not None:
            before = _ago(age)
            batches = privacy.purge(before, batch=batch)
            self._purge("visitors", privacy.expired(before), batches, dry_run=dry_run)
        if days is not None:
            before = _ago(days)
            batches = maintenance.purge(before, batch=batch)
            rows = [maintenance.delivered_before(before)]
            self._purge("delivered callbacks", rows, batches, dry_run=dry_run)
        if not dry_run:
            # These rows are few, so they need neither batches nor a message.
            alias = db.write_alias()
            SentForm.objects.using(alias).filter(sent_on__lt=_ago(SENT_FORM_DAYS)).delete()
            filtered = RecentFilteredClick.objects.using(alias)
            filtered.filter(clicked_on__lt=_ago(FILTERED_CLICK_DAYS)).delete()

    def _blank(self, name: str, batch: int, *, dry_run: bool) -> None:
        user = find_user(name)
        if dry_run:
            found = privacy.personal_data(user)
            self.stdout.write(
                f"Personal data of {found.visitors} visitors and {found.callbacks} callbacks would "
                "be erased."
            )
            return
        done = privacy.blank(
            user, batch=batch, progress=lambda done: self.show(f"{done.rows} rows changed")
        )
        self.end_line()
        self.stdout.write(
            f"Erased personal data of {done.visitors} visitors and {done.callbacks} callbacks."
        )
        if left := privacy.personal_data(user).callbacks:
            self.stdout.write(
                f"Skipped {left} callbacks that are being sent. Run the command again in a minute."
            )

    def _purge(
        self, name: str, rows: Iterable[QuerySet[Any]], batches: Iterable[int], *, dry_run: bool
    ) -> None:
        if dry_run:
            count = sum(some.count() for some in rows)
            self.stdout.write(f"{count} {name} would be removed.")
        else:
            self.stdout.write(f"{self.sum(batches, 'removed')} {name} removed.")


def _ago(days: int) -> datetime:
    return timezone.now() - timedelta(days=days)
