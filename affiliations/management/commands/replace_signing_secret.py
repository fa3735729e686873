from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from affiliations.models import Partner


class Command(BaseCommand):
    help = "Replaces the signing secret of a partner, and prints the new secret."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("uid", help="The uid of the partner.")

    def handle(self, *args: Any, **options: Any) -> None:
        partner = Partner.objects.by_uid(options["uid"].encode())
        if partner is None:
            raise CommandError(f"Partner {options['uid']!r} does not exist.")
        self.stdout.write(partner.replace_signing_secret())
