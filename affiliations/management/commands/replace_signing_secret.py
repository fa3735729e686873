"""Give a partner a new signing secret."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from affiliations.models import Partner


class Command(BaseCommand):
    """Replace the secret and print the new one."""

    help = "Replace the secret that a partner's callbacks are signed with, and print the new one."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Say what the command line knows."""
        parser.add_argument("uid", help="The uid of the partner.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Replace the secret of one partner."""
        partner = Partner.objects.by_uid(options["uid"].encode())
        if partner is None:
            raise CommandError(f"There is no partner {options['uid']!r}.")
        self.stdout.write(partner.replace_signing_secret())
