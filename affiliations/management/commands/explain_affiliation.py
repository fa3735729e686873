from __future__ import annotations

from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from affiliations import timeline
from affiliations.logs import one_line
from affiliations.management import find_user


class Command(BaseCommand):
    help = (
        "Prints the timeline of visitors: clicks, conversions, uncredited triggers with the "
        "reason, decisions and callbacks."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--visitor", type=int, metavar="ID", help="The id of the visitor.")
        which.add_argument("--user", help="The name or primary key of the user.")
        which.add_argument(
            "--reference",
            help="Your own id of the event, such as an order number or shop.order:17.",
        )
        which.add_argument("--click-id", help="The partner's own id of the click.")

    def handle(self, *args: Any, **options: Any) -> None:
        ids = timeline.find(
            visitor=options["visitor"],
            user=find_user(options["user"]) if options["user"] is not None else None,
            reference=options["reference"] or "",
            click_id=options["click_id"] or "",
        )
        if not ids:
            self.stdout.write(
                "No visitor was found. If a trigger fires and no visitor is known, the reason is "
                "only in the log “affiliations”, at level DEBUG."
            )
            if options["reference"]:
                self.stdout.write(
                    "Of an uncredited trigger only the latest reference is stored, and none if "
                    "the event was already credited. If you know the visitor, try --user or "
                    "--click-id."
                )
        for found in timeline.build(ids[: timeline.LIMIT]):
            self.stdout.write(one_line(f"Visitor {found.visitor}, {found.visitor.partner}"))
            for entry in found.entries:
                self.stdout.write(one_line(f"  {_time(entry.on)}  {entry.text}"))
        if len(ids) > timeline.LIMIT:
            self.stdout.write(f"Only the latest {timeline.LIMIT} visitors are shown.")


def _time(on: datetime | None) -> str:
    if on is None:
        return f"{'now':<19}"
    return f"{timezone.localtime(on) if timezone.is_aware(on) else on:%Y-%m-%d %H:%M:%S}"
