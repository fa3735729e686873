from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from affiliations.management import ProgressCommand
from affiliations.reports import rollups


class Command(ProgressCommand):
    help = (
        "Counts visitors into daily totals, which makes reports fast on sites with many millions "
        "of clicks. Run it once a day. Reports are correct without it, and while it runs."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--rebuild",
            action="store_true",
            help="Delete the totals and count again. Use it after a change of TIME_ZONE, or after "
            "visitors were inserted, changed or deleted by code other than this app.",
        )
        parser.add_argument(
            "--batch",
            type=int,
            default=rollups.BATCH,
            help=f"Visitors per transaction. Defaults to {rollups.BATCH}.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["batch"] < 1:
            raise CommandError("--batch must be 1 or more.")
        begin = rollups.rebuild if options["rebuild"] else rollups.count
        passed = self.sum(begin(batch=options["batch"]), "counted")
        self.stdout.write(f"{passed} visitors counted. The next run counts newer visitors.")
