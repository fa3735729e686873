"""Say why something was counted, or was not."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from affiliations import stories
from affiliations.management.accounts import account


class Command(BaseCommand):
    """Tell the story of each referral that is asked about."""

    help = "Tell the story of referrals: how they came, what was counted or not and why, who heard."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Say what the command line knows."""
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--visitor", type=int, metavar="ID", help="The id of a visitor.")
        which.add_argument("--user", help="The name or key of a user.")
        which.add_argument(
            "--reference", help="What was done, such as an order number or shop.order:17."
        )
        which.add_argument("--click-id", help="The partner's id of a click.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Find, tell, print."""
        ids = stories.find(
            visitor=options["visitor"],
            user=account(options["user"]) if options["user"] is not None else None,
            reference=options["reference"] or "",
            click_id=options["click_id"] or "",
        )
        if not ids:
            self.stdout.write(
                "Nobody was referred, as far as is known. Why a trigger was not counted where no "
                "visitor was known stands in the log “affiliations”, at the level DEBUG."
            )
            if options["reference"]:
                self.stdout.write(
                    "Of what is not counted the last reference is kept, and none of what was "
                    "counted before: if you know the visitor, ask by --user or --click-id as well."
                )
        for story in stories.tell(ids[: stories.LIMIT]):
            self.stdout.write(_shown(f"Visitor {story.visitor}, {story.visitor.partner}"))
            for line in story.lines:
                self.stdout.write(_shown(f"  {_time(line.on)}  {line.text}"))
        if len(ids) > stories.LIMIT:
            self.stdout.write(f"There are more; these are the latest {stories.LIMIT}.")


def _time(on: datetime | None) -> str:
    if on is None:
        return f"{'now':<19}"
    return f"{timezone.localtime(on) if timezone.is_aware(on) else on:%Y-%m-%d %H:%M:%S}"


def _shown(text: str) -> str:
    """Write what could steer a terminal as an escape: a link's labels come from anybody."""
    return "".join(
        sign if sign.isprintable() or sign == "\N{NO-BREAK SPACE}" else ascii(sign)[1:-1]
        for sign in text
    )
