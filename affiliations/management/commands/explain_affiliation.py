from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, no_translations
from django.db import DatabaseError
from django.db.models import Q
from django.utils import timezone

from affiliations import timeline
from affiliations.dates import in_active_zone
from affiliations.logs import one_line
from affiliations.management import find_user, site_state
from affiliations.models import Conversion, Partner, UncreditedTrigger, Visitor
from affiliations.timeline import Entry

#: The number of the newest events that are printed.
LIMIT = 30
_HOUR = timedelta(hours=1)
_SAME_HOST = (
    "Sign up or order in the same browser, and on the same host as the link: localhost and "
    "127.0.0.1 have different sessions."
)
_NO_ROW = (
    "A trigger that fires while no visitor is known leaves no row: with DEBUG = True the console "
    "of runserver says so."
)


class Command(BaseCommand):
    help = (
        "Explains clicks, conversions, uncredited triggers, decisions and callbacks: what "
        "happened, why, and what to do about it. Without an option, it explains the last hour."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        which = parser.add_mutually_exclusive_group()
        which.add_argument("--partner", help="The uid, primary key or name of the partner.")
        which.add_argument("--visitor", type=int, metavar="ID", help="The id of the visitor.")
        which.add_argument("--user", help="The name or primary key of the user.")
        which.add_argument(
            "--reference",
            help="Your own id of the event, such as an order number or shop.order:17.",
        )
        which.add_argument("--click-id", help="The partner's own id of the click.")

    @no_translations  # What the command itself says is English, as everything on the console.
    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["partner"] is not None:
                self._explain_partner(_find_partner(options["partner"]))
            elif all(options[key] is None for key in ("visitor", "user", "reference", "click_id")):
                self._explain_site()
            else:
                self._explain_visitors(options)
        except DatabaseError as error:
            raise CommandError(f"{error}. Does manage.py migrate have anything to do?") from error

    def _explain_site(self) -> None:
        entries = timeline.recent(since=timezone.now() - _HOUR, limit=LIMIT)
        if entries:
            self._write("In the last hour, the newest first:")
        else:
            self._write("Nothing happened in the last hour.")
        self._write_newest(entries)
        found = list(site_state.problems())
        has_visitors = any(isinstance(entry.about, Visitor) for entry in entries)
        if not has_visitors and (link := site_state.example_link()):
            found.append(f"Follow a partner’s link in a browser: {link}")
        # If there are more events, an older one may be that of the trigger.
        fired = {
            entry.about.trigger
            for entry in entries
            if isinstance(entry.about, Conversion | UncreditedTrigger)
        }
        if len(entries) <= LIMIT and (missing := list(site_state.triggers(without=fired))):
            found += [*missing, _SAME_HOST, _NO_ROW]
        self._write_list("To check:", found)

    def _explain_partner(self, partner: Partner) -> None:
        self._write(f"{partner.name_and_uid}, the newest first:")
        self._write_newest(timeline.recent(partner=partner, limit=LIMIT))
        self._write_list("To check:", site_state.problems_of(partner))

    def _explain_visitors(self, options: dict[str, Any]) -> None:
        ids = timeline.find(
            visitor=options["visitor"],
            user=find_user(options["user"]) if options["user"] is not None else None,
            reference=options["reference"] or "",
            click_id=options["click_id"] or "",
        )
        if not ids:
            self._write(
                "No visitor was found. If a trigger fires and no visitor is known, the reason is "
                "only in the log “affiliations”, at level DEBUG, and with DEBUG = True on the "
                "console."
            )
            if options["reference"]:
                self._write(
                    "Of an uncredited trigger only the latest reference is stored, and none if "
                    "the event was already credited. If you know the visitor, try --user or "
                    "--click-id."
                )
        for found in timeline.build(ids[: timeline.LIMIT]):
            self._write(f"Visitor {found.visitor}, {found.visitor.partner}")
            self._write_entries(found.entries)
        if len(ids) > timeline.LIMIT:
            self._write(f"Only the latest {timeline.LIMIT} visitors are shown.")

    def _write_newest(self, entries: list[Entry]) -> None:
        self._write_entries(entries[:LIMIT])
        if len(entries) > LIMIT:
            self._write(f"Only the newest {LIMIT} are shown.")

    def _write_entries(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._write(f"  {_time(entry.on)}  {entry.text}")
            if entry.cure:
                self._write(f"{'':21}  → {entry.cure}")

    def _write_list(self, heading: str, texts: Iterable[str]) -> None:
        for number, text in enumerate(texts):
            if number == 0:
                self._write(heading)
            self._write(f"  - {text}")

    def _write(self, text: str) -> None:
        # On Windows, output that a shell writes to a file is in cp1252, which has no arrows.
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"
        line = one_line(text).encode(encoding, "backslashreplace")
        self.stdout.write(line.decode(encoding))


def _find_partner(text: str) -> Partner:
    """
    Return the partner with this uid, primary key or name, or with this part of the name.

    Raises:
        CommandError: If there is none, or more than one.
    """
    exactly = Q(uid=text) | Q(name=text)
    if text.isdecimal() and len(text) < 10:
        exactly |= Q(pk=int(text))
    partners = list(Partner.objects.filter(exactly)[:2]) or Partner.objects.matching(text, 2)
    if not partners:
        raise CommandError(f"Partner {text!r} does not exist.")
    if len(partners) > 1:
        raise CommandError(f"Several partners are called {text!r}. Enter the uid.")
    return partners[0]


def _time(on: datetime | None) -> str:
    if on is None:
        return f"{'now':<19}"
    return f"{in_active_zone(on):%Y-%m-%d %H:%M:%S}"
