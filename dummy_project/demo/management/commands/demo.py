"""Start the demo, or play its story automatically."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from argparse import ArgumentTypeError
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import requests
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from demo import deal
from demo.sites import Site, SiteDown, free_port, running
from demo.story import StepFailed, Story, describe, received_by

GUIDE = """
  The shop       {shop}
  The partner    {partner}
  The provider   {payments}
  The Admin      {shop}admin/    name {name}, password {password}
  The overview   {shop}admin/affiliations/overview/
  Partner page   {page}

Try this:
  1. Open the partner's site in your browser and follow a link to the shop. The shop shows which
     partner you came from. (Clicks by crawlers, curl and headless browsers are filtered.)
  2. Sign up, order the newsletter, order a tea, and pay for it at the payment provider.
  3. Watch the partner receive a callback each time, here or at {partner}desk/
  4. Refund the payment at {payments} and the partner receives a rejection.
  5. Renew the order of a signed-up customer at {payments} and the partner earns again.
  6. Order with the coupon {code} in a private window: the partner earns without a click.
  7. Open the overview: the past 30 days, what is unpaid, and the top partners.
  8. In the Admin, look at Visitors, Conversions and Callbacks; change the partner's subscriptions.
  9. Open the "Partner page" above to see what the partner sees.

The sites write their logs to {logs}
Ctrl-C stops everything.
"""


def port(value: str) -> int:
    """Parse a port of the command line."""
    if value.isdigit() and 0 < int(value) < 65536:
        return int(value)
    raise ArgumentTypeError(f"{value} is not a port")


class Command(BaseCommand):
    """`manage.py demo`."""

    help = (
        "Starts the shop, a partner's site and a payment provider, each in its own process, and "
        "prints what to try. With --once it plays the whole story automatically and checks it."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the command's options."""
        parser.add_argument(
            "--once",
            action="store_true",
            help=(
                "play the story over HTTP, check each step, and exit; uses a temporary database, "
                "or the one named by SHOP_DATABASE"
            ),
        )
        parser.add_argument(
            "--fresh",
            action="store_true",
            help="delete the data of earlier runs first",
        )
        for site, usual in (("shop", 8000), ("partner", 8001), ("payment", 8002)):
            parser.add_argument(
                f"--{site}-port",
                type=port,
                help=f"the port of the {site} site; {usual} by default, or a free one if taken",
            )
        parser.add_argument(
            "--partner-status",
            type=int,
            default=200,
            metavar="STATUS",
            help="the status of the partner's responses to callbacks, such as 503 for an error",
        )
        parser.add_argument(
            "--patience",
            type=float,
            default=30,
            metavar="SECONDS",
            help="the maximum time for a site to start and for a step (%(default)s)",
        )

    def handle(self, **options: Any) -> None:
        """Start the sites, play the story or wait, and stop the sites."""
        signal.signal(signal.SIGINT, _interrupted)
        signal.signal(signal.SIGTERM, _terminated)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="demo-")))
            # Close the file before its directory is removed; Windows requires it.
            stack.callback(connection.close)
            if options["once"] and "SHOP_DATABASE" not in os.environ:
                _use_database(str(folder / "once.sqlite3"))
            else:
                self._say(_begin(Path(connection.settings_dict["NAME"]), options["fresh"]))
            call_command("migrate", interactive=False, verbosity=0)
            deal.fill_shelf()
            deal.hire_admin()
            shop, partner, provider = _sites(options, folder)
            try:
                with running(shop, partner, provider, patience=options["patience"]):
                    if options["once"]:
                        self._play(shop, partner, provider, options["patience"])
                    else:
                        self._wait(shop, partner, provider, folder)
            except (SiteDown, StepFailed) as error:
                for site in (shop, partner, provider):
                    self.stderr.write(f"\n--- {site.name}, {site.url}\n{site.output()}")
                raise CommandError(f"The demo failed: {error}") from error
            except KeyboardInterrupt:
                self.stdout.write("\nStopped.")

    def _play(self, shop: Site, partner: Site, provider: Site, patience: float) -> None:
        story = Story(shop, partner, provider, say=self._say, patience=patience)
        story.play()
        self._say(self.style.SUCCESS("All steps had the expected results."))

    def _wait(self, shop: Site, partner: Site, provider: Site, folder: Path) -> None:
        """Print the guide, and then each callback as the partner receives it, until a signal."""
        signals: list[int] = []
        # The handlers only note the signal: Python drops an exception that is raised while it
        # finalizes an object.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: signals.append(number))
        guide = GUIDE.format(
            shop=shop.url,
            partner=partner.url,
            payments=provider.url,
            name=deal.ADMIN_NAME,
            password=deal.ADMIN_PASSWORD,
            code=deal.PARTNER_CODE,
            page=deal.page_of_partner(shop.url),
            logs=folder,
        )
        self._say(guide)
        printed = 0
        while not signals:
            try:
                for site in (shop, partner, provider):
                    site.check()
                received = received_by(partner, timeout=30)
            except (SiteDown, requests.RequestException):
                # Ctrl-C in a terminal ends the sites as well.
                if signals:
                    break
                raise
            for callback in received[printed:]:
                self._say(f"The partner received: {describe(callback)}")
            printed = len(received)
            time.sleep(1)
        if signal.SIGTERM in signals:
            _terminated()
        _interrupted()

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def _interrupted(*_: object) -> NoReturn:
    """Stop once; ignore a second Ctrl-C, such as tox sends, which would leave sites running."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _terminated(*_: object) -> NoReturn:
    """Stop the sites as well when a supervisor stops the demo."""
    sys.exit(128 + signal.SIGTERM)


def _use_database(path: str) -> None:
    """Use another database file in this process, as Django's test runner does."""
    connection.close()
    connection.settings_dict["NAME"] = path


def _begin(database: Path, fresh: bool) -> str:
    """Delete the data of earlier runs if ``fresh``; return the message to print."""
    # The file alone means nothing: the system checks have opened the database.
    has_data = bool(connection.introspection.table_names())
    connection.close()
    if fresh:
        database.unlink(missing_ok=True)
    elif has_data:
        return (
            f"The data of earlier runs is kept in {database}\n"
            "To begin afresh: python -m tox -e demo -- --fresh"
        )
    return f"The demo keeps its data in {database}"


def _sites(options: dict[str, Any], folder: Path) -> tuple[Site, Site, Site]:
    """Return the three sites, not started yet, and create the partner."""

    def choose(site: str, usual: int) -> int:
        wanted = options[f"{site}_port"]
        chosen = free_port(wanted or (0 if options["once"] else usual))
        if wanted and chosen != wanted:
            raise CommandError(f"Port {wanted} is taken. Omit --{site}-port to use a free one.")
        return chosen

    shop_port, partner_port, payment_port = (
        choose("shop", 8000),
        choose("partner", 8001),
        choose("payment", 8002),
    )
    provider = Site(
        "the payment provider",
        "payment_provider.settings",
        payment_port,
        folder / "provider.log",
        {"PROVIDER_WEBHOOK_URL": f"http://127.0.0.1:{shop_port}/payments/webhook/"},
    )
    shop = Site(
        "the shop",
        "dummy_project.settings",
        shop_port,
        folder / "shop.log",
        {
            "SHOP_DATABASE": str(connection.settings_dict["NAME"]),
            "SHOP_PAYMENT_URL": provider.url,
        },
    )
    agreed = deal.agree_with_partner(f"http://127.0.0.1:{partner_port}/")
    partner = Site(
        "the partner's site",
        "partner_site.settings",
        partner_port,
        folder / "partner.log",
        {
            "PARTNER_SHOP_URL": shop.url,
            "PARTNER_AFFILIATE_UID": agreed.uid,
            "PARTNER_CALLBACK_STATUS": str(options["partner_status"]),
        },
    )
    return shop, partner, provider
