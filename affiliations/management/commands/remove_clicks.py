from __future__ import annotations

from argparse import ArgumentParser
from datetime import date
from typing import Any

from django.core.management.base import CommandError

from affiliations import db, privacy
from affiliations.dates import FIRST, LAST, Period
from affiliations.management import ProgressCommand
from affiliations.models import Partner


class Command(ProgressCommand):
    help = (
        "Removes the clicks of a partner in a period that have no conversion, for example after a "
        "flood of clicks by bots. Reports then show them as filtered clicks."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("uid", help="The uid of the partner.")
        for name, which in (("--since", "first"), ("--until", "last")):
            parser.add_argument(
                name,
                required=True,
                metavar="YYYY-MM-DD",
                help=f"The {which} day of the period, in the time zone of the site.",
            )
        parser.add_argument(
            "--batch",
            type=int,
            default=privacy.BATCH,
            help=f"Clicks per transaction. Defaults to {privacy.BATCH}.",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Print how many clicks would be removed, without removing any.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        batch = options["batch"]
        try:
            # Also dates, as call_command() passes them.
            since, until = (date.fromisoformat(str(options[key])) for key in ("since", "until"))
        except ValueError as error:
            raise CommandError("--since and --until must be days such as 2026-11-30.") from error
        if not FIRST <= since <= until <= LAST or batch < 1:
            raise CommandError("--since must not be after --until, and --batch must be 1 or more.")
        partners = Partner.objects.using(db.write_alias())
        partner = partners.filter(uid=options["uid"]).first()
        if partner is None:
            raise CommandError(f"There is no partner with the uid {options['uid']!r}.")
        period = Period(since, until)
        if options["dry_run"]:
            count = privacy.unconverted(partner, period).count()
            self.stdout.write(f"{count} clicks would be removed.")
        else:
            removed = self.sum(privacy.remove(partner, period, batch=batch), "removed")
            self.stdout.write(f"{removed} clicks removed.")
