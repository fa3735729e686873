from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from affiliations import partner_import
from affiliations.partner_import import COLUMNS, ChangedMeanwhile


class Command(BaseCommand):
    help = (
        "Imports partners from a CSV file, all or none. If the file has mistakes, it lists all of "
        "them with their lines, imports nothing, and exits with 1."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "file",
            type=Path,
            help=f"The file. Its first line names the columns: {', '.join(COLUMNS)}.",
        )
        parser.add_argument(
            "--update",
            action="store_true",
            help="Change the partners that exist already. By default a difference is a mistake.",
        )
        parser.add_argument(
            "--encoding",
            default="utf-8",
            help="The encoding of the file, such as cp1252 or utf-16. Defaults to utf-8.",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Print what would be imported, without importing it.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        dry_run = options["dry_run"]
        try:
            raw = Path(options["file"]).read_bytes()
            text = partner_import.decode(raw, options["encoding"])
        except (OSError, LookupError, ValueError) as error:
            raise CommandError(str(error)) from error
        plan = partner_import.plan(text, update=options["update"])
        if plan.mistakes:
            lines, count = "\n".join(map(str, plan.mistakes)), len(plan.mistakes)
            mistakes = f"{count} mistake{'' if count == 1 else 's'}"
            raise CommandError(f"{lines}\n{mistakes}. Nothing was imported.")
        if not dry_run:
            try:
                partner_import.carry_out(plan)
            except ChangedMeanwhile as error:
                raise CommandError(
                    "Partners have changed while the file was imported. Nothing was imported. Run "
                    "the command again."
                ) from error
        self.stdout.write(
            f"{'Nothing was imported. This would be: ' if dry_run else ''}"
            f"Partners created: {len(plan.created)}, changed: {len(plan.changed)}, unchanged: "
            f"{plan.unchanged_count}. Codes added: {len(plan.codes)}."
        )
        if inactive := sum(not partner.active for partner in plan.created):
            self.stdout.write(f"Inactive: {inactive}. The clicks of these are not tracked.")
