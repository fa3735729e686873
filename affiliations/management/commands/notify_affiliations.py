from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from affiliations.notices import mails, run


class Command(BaseCommand):
    help = (
        "Sends notices by e-mail. Staff learn what waits for them. Partners who agreed to notices "
        "learn of approved and rejected conversions, new statements, and callbacks that fail. Run "
        "it once a day."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Print the e-mails, without sending any.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["dry_run"]:
            count = 0
            for message in run.preview():
                self.stdout.write(f"{mails.text(message)}{'-' * 72}")
                count += 1
            self.stdout.write(f"E-mails to send: {count}.")
            return
        result = run.send()
        if result is None:
            self.stdout.write("Another run is sending notices.")
            return
        if result.is_first:
            self.stdout.write(
                "This is the first run: partners are not told what was decided before it."
            )
        self.stdout.write(f"E-mails sent: {result.sent}.")
        problems = []
        if result.refused:
            problems.append(f"E-mails refused: {result.refused}; the log names the partners.")
        if result.ended:
            problems.append(f"The run has ended early: {result.ended}.")
        if problems:
            raise CommandError(f"{' '.join(problems)} What was not sent is sent by the next run.")
