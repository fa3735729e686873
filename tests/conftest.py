from __future__ import annotations

import gc
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from django.core.management.commands import flush
from django.urls import clear_script_prefix

from tests.settings import DATABASE, LONG, SERVICES

DATABASES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}

# What is built is looked at by `tox -e package`, which says where it is.
collect_ignore = [] if "AFFILIATIONS_TEST_DIST" in os.environ else ["test_package.py"]
# `tox -e hosts` runs these: each host has settings of its own.
collect_ignore += ["integrations"]

hypothesis.settings.register_profile(
    "tests",
    deadline=None,  # Two busy cores are no reason to fail.
    max_examples=400 if LONG else 40,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("tests")

Trigger = tuple[Any, ...]
#: How many tests were left out, by the reason.
LEFT_OUT = pytest.StashKey[Counter[str]]()

#: The sets of parameters of one test after which the others are marked as "further".
EXAMPLES = 3

#: What a test can need beside the database; AFFILIATIONS_TEST_SERVICES lists those that are there.
NEEDS = {"rabbitmq", "redis", "django-tasks-db", "chromium"}


@pytest.fixture(scope="session")
def django_db_modify_db_settings() -> None:
    """Keep the database's name, which tests/settings.py makes different in each xdist worker."""


@pytest.fixture(autouse=True, scope="session")
def content_types_and_permissions_survive_a_flush() -> Iterator[None]:
    """
    Keep the rows that ``migrate`` writes when a transactional test empties the tables.

    Django would delete them and create them again, which takes longer than most tests.
    """
    kept = {"django_content_type", "auth_permission"}

    def sql_flush(style: Any, connection: Any, **options: Any) -> list[str]:
        tables = set(connection.introspection.django_table_names(True, False))
        return connection.ops.sql_flush(style, sorted(tables - kept), **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flush, "sql_flush", sql_flush)
        patch.setattr(flush, "emit_post_migrate_signal", lambda *args, **options: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _the_database_has_the_clock_of_this_machine() -> None:
    """Ask no database for the time, which would be one query more, once a minute."""
    from affiliations import db

    db._CLOCKS.clear()


@pytest.fixture(autouse=True)
def _no_click_happens_to_trim_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no filtered click be the one in a hundred that costs more queries."""
    from affiliations.models import clicks

    monkeypatch.setattr(clicks, "_CLICKS_PER_TRIM", 10**12)


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


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Run Chromium: once, since Playwright starts no second one in the same thread."""
    from tests.chromium import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture
def handed_over(settings: Any) -> list[int]:
    """Return the ids that the dispatcher gets."""
    from tests import dispatchers

    dispatchers.ids.clear()
    settings.AFFILIATE_CALLBACK_DISPATCHER = "tests.dispatchers.remembered"
    return dispatchers.ids


@pytest.fixture
def console(
    settings: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[], list[str]]:
    """Return what a project prints with ``DEBUG`` and without ``LOGGING``."""
    import logging

    from affiliations import triggers

    settings.DEBUG = True
    # pytest has handlers of its own.
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(triggers, "_told_outside", set())
    return lambda: capsys.readouterr().err.splitlines()


@pytest.fixture
def wire(settings: Any) -> Iterator[Callable[[Sequence[Trigger]], None]]:
    """Connect other triggers than those of the settings, until the end of the test."""
    from affiliations import registry

    before = settings.AFFILIATE_TRIGGERS

    def connect(wanted: Sequence[Trigger]) -> None:
        # By the fixture, which restores all settings. Overrides that end in another order leak.
        settings.AFFILIATE_TRIGGERS = list(wanted)
        registry.connect()

    try:
        yield connect
    finally:
        connect(before)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Use one worker more than there are processors, since some tests wait."""
    return 1 + (os.cpu_count() or 1)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = Counter()
    if config.option.xmlpath and not hasattr(config, "workerinput"):
        _left_out_file(config).unlink(missing_ok=True)
    if unknown := set(SERVICES) - NEEDS:
        raise pytest.UsageError(f"AFFILIATIONS_TEST_SERVICES does not know {sorted(unknown)}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Mark what uses transactions, and what says little more about another database or Django.

    What needs another database or a service is left out.
    """
    kept, left_out = [], []
    counts: Counter[str] = Counter()
    for item in items:
        if _is_transactional(item):
            item.add_marker("transaction")
        closest = item.get_closest_marker("only_on")
        databases = _named(item, [closest] if closest else [], set(DATABASES))
        test = item.nodeid.partition("[")[0]
        counts[test] += 1
        if counts[test] > EXAMPLES and (not databases or "sqlite" in databases):
            item.add_marker("further")
        missing = _named(item, item.iter_markers("needs"), NEEDS) - set(SERVICES)
        if databases and DATABASE not in databases:
            reasons = [f"for {DATABASES[name]}" for name in sorted(databases)]
        elif missing:
            reasons = [f"that need {name}" for name in sorted(missing)]
        else:
            kept.append(item)
            continue
        config.stash[LEFT_OUT].update(reasons)
        left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def pytest_collection_finish() -> None:
    """Leave the tests themselves out of each search for garbage: they are most of what there is."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _is_transactional(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("django_db")
    fixtures = {"transactional_db", "live_server", "django_db_serialized_rollback"}
    return bool(marker and marker.kwargs.get("transaction")) or not fixtures.isdisjoint(
        getattr(item, "fixturenames", ())
    )


def _named(item: pytest.Item, markers: Iterable[pytest.Mark], known: set[str]) -> set[str]:
    """Return what these markers of a test name."""
    named = {name for marker in markers for name in marker.args}
    if named - known:
        raise pytest.UsageError(f"{item.nodeid}: what is {sorted(named - known)}?")
    return named


class Processes:
    """Which tests may start processes, and which fixtures have: their other users need the mark."""

    allowed = True
    #: The fixture that is being set up: where it is defined, and its name.
    fixture = ("", "")
    fixtures: set[tuple[str, str]] = set()

    @classmethod
    def audit(cls, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "subprocess.Popen":
            return
        cls.fixtures.add(cls.fixture)
        if not cls.allowed:
            raise AssertionError(UNMARKED)


UNMARKED = "A test that starts a process, or shares one, must be marked as server."
sys.addaudithook(Processes.audit)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    # A request to a site below a path leaves that path to the thread.
    clear_script_prefix()
    Processes.allowed = item.get_closest_marker("server") is not None
    names = getattr(item, "fixturenames", ())
    for place, name in Processes.fixtures:
        if not Processes.allowed and name in names and item.nodeid.startswith(place):
            raise AssertionError(UNMARKED)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any) -> Iterator[Any]:
    outer = Processes.fixture
    Processes.fixture = (fixturedef.baseid, fixturedef.argname)
    try:
        return (yield)
    finally:
        Processes.fixture = outer


# What a run has left out: said at its end, and kept beside its results for `.ci/run`, which fails
# if a test was left out everywhere.


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Write the ids of the tests that are left out to a file."""
    config = items[0].config
    worker = getattr(config, "workerinput", {"workerid": "gw0"})["workerid"]
    if config.option.xmlpath and worker == "gw0":
        with _left_out_file(config).open("a", encoding="utf-8") as file:
            file.writelines(f"{item.nodeid}\n" for item in items)


def _left_out_file(config: pytest.Config) -> Path:
    return Path(config.option.xmlpath).with_name("left-out.txt")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take what a worker of pytest-xdist has left out: each leaves out the same."""
    node.config.stash[LEFT_OUT] |= Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def _everything_is_required() -> bool:
    return os.environ.get("AFFILIATIONS_TEST_REQUIRE") == "all"


def _skipped(terminal: Any) -> list[tuple[int, str]]:
    """Count the skipped tests by their reason."""
    reasons: Counter[str] = Counter()
    for report in terminal.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        reasons[str(reason).removeprefix("Skipped: ")] += 1
    return [(count, reason) for reason, count in sorted(reasons.items())]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what this run has not shown."""
    write = terminalreporter.write_line
    others = [label for name, label in DATABASES.items() if name != DATABASE]
    terminalreporter.section("left out")
    write(f"This run used {DATABASES[DATABASE]}. Not used: {', '.join(others)}.")
    write("CONTRIBUTING.rst says how to run the tests on them. .ci/run does so, with every version")
    write("of Python and Django, with other packages (hosts), a browser and the demo.")
    if config.option.markexpr:
        write(f"Only tests that are: {config.option.markexpr}.")
    for reason, count in sorted(config.stash[LEFT_OUT].items()):
        write(f"{count} test(s) {reason} were left out.")
    for count, reason in _skipped(terminalreporter):
        write(f"{count} test(s) skipped: {reason}")
    known = Counter(report.wasxfail for report in terminalreporter.stats.get("xfailed", []))
    for reason, count in sorted(known.items()):
        write(f"{count} test(s) failed, as they are known to: {reason}")
    if _everything_is_required() and _skipped(terminalreporter):
        write("AFFILIATIONS_TEST_REQUIRE=all: tests were skipped, so this run has failed.")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """
    Fail where everything was asked for and something was skipped.

    A known failure does not count: it was run, and fails the run itself once it passes.
    """
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["left_out"] = dict(config.stash[LEFT_OUT])
        return
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == pytest.ExitCode.OK and _everything_is_required() and _skipped(terminal):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
