"""What the pages about delivery promise is what the code does."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import pytest
from django.core.management import load_command_class
from django.utils.module_loading import import_string

from affiliations import signals
from affiliations.callbacks import delivery, dispatchers, retention, retries, suspension, transport
from affiliations.conf import Settings
from affiliations.models import Subscription
from tests.test_documentation import DOCS, README, blocks

DELIVERY, PARTNERS = DOCS / "delivery.rst", DOCS / "partners.rst"
UNITS = {"second": 1, "minute": 60, "hour": 3600}


def paused(page: Path, first: int, column: int) -> list[timedelta]:
    """Return the pauses of a page's table of attempts."""
    found = []
    rows = re.findall(r"    \* - (\d+)\n((?:      - .+\n)+)", page.read_text(encoding="utf-8"))
    assert [int(number) for number, _ in rows] == list(range(first, 11))
    for _, cells in rows:
        cell = cells.splitlines()[column].strip(" -")
        number, _, unit = cell.partition(" ")
        found.append(timedelta(seconds=int(number) * UNITS[unit.rstrip("s")] if unit else 0))
    return found


def test_the_tables_of_attempts_show_the_schedule() -> None:
    schedule = list(Settings().callback_retry_schedule)
    assert paused(DELIVERY, 1, 0) == schedule
    assert paused(PARTNERS, 2, 0) == schedule[1:]


@pytest.mark.parametrize("page", [DELIVERY, README], ids=lambda page: page.name)
def test_every_command_and_option_that_is_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(
        r"manage\.py (deliver_callbacks|check_callbacks|purge_affiliations|replace_signing_secret)"
        r"((?: +[^`\n\"]+)?)",
        text,
    )
    assert named
    for name, arguments in named:
        parser = load_command_class("affiliations", name).create_parser("manage.py", name)
        parser.parse_args(arguments.split())


def test_every_dispatcher_is_explained() -> None:
    def is_ours(name: str) -> bool:
        found = getattr(dispatchers, name)
        return callable(found) and found.__module__ == dispatchers.__name__

    ours = {name for name in vars(dispatchers) if not name.startswith("_") and is_ours(name)}
    text = DELIVERY.read_text(encoding="utf-8")
    table = text.partition(".. _choosing-a-dispatcher:")[2].partition("The default is")[0]
    assert set(re.findall(r"^    \* - ``(\w+)``$", table, re.MULTILINE)) == ours


def test_the_numbers_of_the_pages_are_those_of_the_code() -> None:
    hours = timedelta(hours=1)
    assert (suspension.SUSPEND_AFTER_FAILURES, suspension.SUSPEND_AFTER / hours) == (10, 72)
    assert retries.LONGEST_RETRY_AFTER / hours == 24
    assert (delivery.CONCURRENCY, delivery.PER_PARTNER) == (16, 4)
    assert (retention.DAYS, retention.BATCH) == (90, 1000)
    assert (transport.MAX_BODY, transport.MAX_REDIRECTS) == (4096, 3)
    assert (Settings().callback_timeout, Settings().callback_deadline) == ((3.05, 10), 15)


def test_every_function_that_is_named_exists() -> None:
    text = DELIVERY.read_text(encoding="utf-8")
    named = re.findall(r"``(affiliations\.[\w.]+)\(\w*\)``", text)
    assert len(named) >= 5
    assert all(callable(import_string(name)) for name in named)


def test_the_receiver_of_the_page_tells_staff(
    subscription: Subscription, caplog: pytest.LogCaptureFixture
) -> None:
    [block] = [b for b in blocks(DELIVERY, "python") if b.file == "shop/alarms.py"]
    module = ModuleType("shop.alarms")
    exec(block.code, vars(module))
    try:
        signals.subscription_suspended.send(Subscription, subscription=subscription)
    finally:
        assert signals.subscription_suspended.disconnect(dispatch_uid="shop.alarms.tell_staff")
    assert caplog.messages == [
        f"{subscription.partner} does not answer: {subscription.callback_url}"
    ]
