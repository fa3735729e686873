from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.apps import apps
from django.core.management.base import CommandError

from affiliations.conversions import references
from affiliations.management import ProgressCommand

#: The maximum of references that the error names.
_NAMED = 20


class Command(ProgressCommand):
    help = (
        "Renames the default references of a renamed model, so that its refunds find their "
        "conversions and no order is counted again. Run it before the new model is saved."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("old", help="The old label of the model, such as shop.order.")
        parser.add_argument("new", help="The new label, such as shop.purchase.")
        parser.add_argument(
            "--batch",
            type=int,
            default=references.BATCH,
            help=f"Rows per transaction. Defaults to {references.BATCH}.",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Print how many rows would be renamed, without changing any.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        old, new, dry_run = options["old"].lower(), options["new"].lower(), options["dry_run"]
        try:
            apps.get_model(new)
        except (LookupError, ValueError) as error:
            raise CommandError(f"There is no model “{new}”.") from error
        if options["batch"] < 1 or old == new:
            raise CommandError("--batch must be 1 or more, and the labels must be different.")
        count, taken = 0, []
        for renamed, kept in references.rename(old, new, batch=options["batch"], dry_run=dry_run):
            count += renamed
            taken += kept
            self.show(f"{count} renamed")
        self.end_line()
        self.stdout.write(f"{count} references {'would be' if dry_run else 'were'} renamed.")
        if taken:
            names = ", ".join(taken[:_NAMED]) + (", …" if len(taken) > _NAMED else "")
            raise CommandError(
                f"{len(taken)} conversions keep their reference, because the trigger has already "
                f"counted the new one, or because it is too long: {names}."
            )
