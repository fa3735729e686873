from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import hypothesis
import pytest
from django.apps import apps
from django.core.management.commands import flush
from django.test import override_settings

from tests.settings import DATABASE, SERVICES

DATABASES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}

# What is built is looked at by `tox -e package`, which says where it is.
collect_ignore = [] if "AFFILIATIONS_TEST_DIST" in os.environ else ["test_package.py"]

# Two busy cores are no reason to fail.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

Trigger = tuple[Any, ...]
not_for_this_database = pytest.StashKey[list[str]]()
without_service = pytest.StashKey[list[str]]()

#: What a test can need beside the database; AFFILIATIONS_TEST_SERVICES lists those that are there.
NEEDS = {"rabbitmq", "redis", "django-tasks-db", "chromium"}


@pytest.fixture(autouse=True, scope="session")
def emptied_and_no_more() -> Iterator[None]:
    """
    Empty the tables after a test with transactions of its own, and leave them so.

    Django would make all content types and permissions anew, which takes longer than most tests.
    Who asks for a permission there takes the fixture ``permissions``.
    """

    from django.contrib.contenttypes.models import ContentType

    def emptied(*args: object, **options: object) -> None:
        ContentType.objects.clear_cache()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flush, "emit_post_migrate_signal", emptied)
        yield


@pytest.fixture
def permissions(db: None) -> None:
    """Make those of our models, where another test has emptied the table."""
    from django.contrib.auth.management import create_permissions

    create_permissions(apps.get_app_config("affiliations"), verbosity=0)


@pytest.fixture
def partner(db: None) -> Any:
    """Make an active partner."""
    from tests.factories import PartnerFactory

    return PartnerFactory()


@pytest.fixture
def subscription(partner: Any) -> Any:
    """Subscribe the partner to "Order placed"."""
    from tests.factories import SubscriptionFactory

    return SubscriptionFactory(partner=partner)


@pytest.fixture
def staff(db: None) -> Any:
    """Log in somebody who may do everything in the Admin."""
    from django.test import Client

    from tests.factories import UserFactory

    client = Client()
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    return client


@pytest.fixture
def handed_over(settings: Any) -> list[int]:
    """Return the ids that the dispatcher gets."""
    from tests import dispatchers

    dispatchers.ids.clear()
    settings.AFFILIATE_CALLBACK_DISPATCHER = "tests.dispatchers.remembered"
    return dispatchers.ids


@pytest.fixture
def wire() -> Iterator[Callable[[Sequence[Trigger]], None]]:
    """Connect other triggers than those of the settings, until the end of the test."""
    from affiliations import wiring

    overrides: list[override_settings] = []

    def connect(wanted: Sequence[Trigger]) -> None:
        override = override_settings(AFFILIATE_TRIGGERS=list(wanted))
        override.enable()
        overrides.append(override)
        wiring.connect()

    try:
        yield connect
    finally:
        for override in reversed(overrides):
            override.disable()
        wiring.connect()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[not_for_this_database] = []
    config.stash[without_service] = []
    if unknown := set(SERVICES) - NEEDS:
        raise pytest.UsageError(f"AFFILIATIONS_TEST_SERVICES does not know {sorted(unknown)}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take out the tests that another database or a service is needed for, and remember them."""
    kept, left_out = [], []
    for item in items:
        closest = item.get_closest_marker("only_on")
        databases = _named(item, [closest] if closest else [], set(DATABASES))
        missing = _named(item, item.iter_markers("needs"), NEEDS) - set(SERVICES)
        if databases and DATABASE not in databases:
            config.stash[not_for_this_database].extend(databases)
        elif missing:
            config.stash[without_service].extend(missing)
        else:
            kept.append(item)
            continue
        left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def _named(item: pytest.Item, markers: Iterable[pytest.Mark], known: set[str]) -> set[str]:
    """Return what these markers of a test name."""
    named = {name for marker in markers for name in marker.args}
    if named - known:
        raise pytest.UsageError(f"{item.nodeid}: what is {sorted(named - known)}?")
    return named


def _everything_is_required() -> bool:
    return os.environ.get("AFFILIATIONS_TEST_REQUIRE") == "all"


def _left_out(terminal: Any) -> list[tuple[int, str]]:
    """Count the tests that did not do their work, by the reason that they gave."""
    reasons: Counter[str] = Counter()
    for report in terminal.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        reasons[str(reason).removeprefix("Skipped: ")] += 1
    for report in terminal.stats.get("xfailed", []):
        reasons[f"expected to fail: {report.wasxfail}"] += 1
    return [(count, reason) for reason, count in sorted(reasons.items())]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what this run has not shown."""
    write = terminalreporter.write_line
    others = [label for name, label in DATABASES.items() if name != DATABASE]
    terminalreporter.section("left out")
    write(f"This run used {DATABASES[DATABASE]}. Not used: {', '.join(others)}.")
    write("CONTRIBUTING.rst says how to run the tests on them.")
    for name, count in sorted(Counter(config.stash[not_for_this_database]).items()):
        write(f"{count} test(s) that are for {DATABASES[name]} were left out.")
    for name, count in sorted(Counter(config.stash[without_service]).items()):
        write(f"{count} test(s) that need {name} were left out.")
    for count, reason in _left_out(terminalreporter):
        write(f"{count} test(s) skipped: {reason}")
    if _everything_is_required() and _left_out(terminalreporter):
        write("AFFILIATIONS_TEST_REQUIRE=all: so this run has failed.")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail where everything was asked for and something was skipped."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == pytest.ExitCode.OK and _everything_is_required() and _left_out(terminal):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
