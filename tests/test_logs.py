"""Nothing from outside adds a line to the log, or controls the terminal that shows it."""

from __future__ import annotations

import ast
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

import affiliations
from affiliations import logs
from affiliations.callbacks import results
from affiliations.triggers import complete_trigger
from tests.factories import CallbackFactory, VisitorFactory

FORGED = "2026-01-01 INFO forged"
BREAKS = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"]
CONTROLS = [*BREAKS, "\x1b[2J", "\x9b2J", "\x08", "\x00", "\x7f", "\u202e", "\u2066", "\ud800"]
HOSTILE = "".join(f"{control}{FORGED}" for control in CONTROLS)

logger = logging.getLogger("affiliations")


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Return what a handler with the formatter of most sites writes."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield written
    logger.removeHandler(handler)
    logger.setLevel(level)


def is_in_line(written: str) -> bool:
    """Tell whether no line begins as a forged one, and each but the line breaks can be printed."""
    assert FORGED in written
    lines = written.split("\n")
    return all(line.isprintable() and not line.startswith(FORGED[:4] + "-01") for line in lines)


@pytest.mark.parametrize("control", CONTROLS)
def test_a_message_stays_in_its_line(log: io.StringIO, control: str) -> None:
    logger.warning("Trigger “%s” (%r).", f"x{control}{FORGED}", [control])
    assert log.getvalue().count("\n") == 1
    assert is_in_line(log.getvalue())


def test_a_message_without_such_characters_keeps_its_arguments(caplog: Any) -> None:
    logger.warning("Trigger “%s”, %s EUR.", "Kaffee für Zoë 😀", 3)
    assert caplog.records[0].args == ("Kaffee für Zoë 😀", 3)


def test_the_text_of_an_exception_begins_no_line(log: io.StringIO) -> None:
    try:
        try:
            raise ValueError(HOSTILE)
        except ValueError as error:
            raise RuntimeError(f"x\n{FORGED}") from error
    except RuntimeError:
        logger.exception("It failed.")
    assert is_in_line(log.getvalue())
    _message, *lines = log.getvalue().splitlines()
    assert lines[0] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") for line in lines)


def test_without_an_exception_there_is_no_traceback(log: io.StringIO) -> None:
    logger.error("It failed.", exc_info=(None, None, None))
    assert log.getvalue().endswith("It failed.\nNoneType: None\n")


def test_a_value_that_cannot_be_shown_fails_nobody(log: io.StringIO, monkeypatch: Any) -> None:
    class Broken:
        def __str__(self) -> str:
            raise ValueError

    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger.warning("%s", Broken())
    assert log.getvalue() == ""


def test_every_module_logs_to_the_logger_that_escapes() -> None:
    assert logger.filters.count(logs.keep_in_line) == 1
    for path in Path(affiliations.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("getLogger"):
                assert ast.unparse(node) == "logging.getLogger('affiliations')", path


# The ways by which text from outside gets there.


@pytest.mark.django_db
def test_a_click_stays_in_its_line(log, client: Client, partner: Any) -> None:
    partner.name = f"x\n{FORGED}\u2028{FORGED}\x1b[2J"
    partner.save()
    client.head(partner.link("/"), headers={"User-Agent": f"x{HOSTILE}"})
    assert " not counted: " in log.getvalue()
    assert is_in_line(log.getvalue())


@pytest.mark.django_db
def test_the_arguments_of_a_trigger_stay_in_their_line(log, subscription: Any) -> None:
    visitor = VisitorFactory(partner=subscription.partner)
    subscription.counting = "every"
    subscription.payout_type, subscription.payout_value = "percent", 10
    subscription.save()
    name = subscription.trigger
    complete_trigger(None, name, visitor=visitor, reference=f"1\n{FORGED}", amount=HOSTILE)
    complete_trigger(None, name, visitor=visitor, reference=f"1\n{FORGED}", currency=HOSTILE)
    complete_trigger(None, f"no\n{FORGED}", visitor=visitor, reference=f"2\u2028{FORGED}")
    assert log.getvalue().count(FORGED) >= 3
    assert is_in_line(log.getvalue())


@pytest.mark.django_db
def test_the_error_of_a_function_of_the_site_stays_in_its_line(
    log, subscription: Any, settings: Any
) -> None:
    visitor = VisitorFactory(partner=subscription.partner)
    settings.AFFILIATE_SCREEN = "tests.test_logs.refuse"
    complete_trigger(None, subscription.trigger, visitor=visitor, reference=f"1\r{FORGED}")
    assert "could not be screened" in log.getvalue()
    assert is_in_line(log.getvalue())


def refuse(*args: object) -> str:
    raise ValueError(f"no\n{HOSTILE}")


@pytest.mark.django_db
def test_a_callback_stays_in_its_line(log) -> None:
    callback = CallbackFactory(status="queued", url=f"https://a.example/\n{FORGED}\u2028{FORGED}")
    results._exhaust(callback)
    assert "is exhausted" in log.getvalue()
    assert is_in_line(log.getvalue())
