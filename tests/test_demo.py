"""The demo, run as a newcomer runs it: in processes of its own, over HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import pytest

#: What the story ends in: each conversion, and what the partner was told of it, one by one.
STORY = """
trigger             reference                   amount  payout  status    told
User registered     auth.user:2                           2.00  approved  approved
Newsletter ordered  store.newsletterreader:1              0.50  approved  approved
Order placed        1                            12.00    0.84  approved  pending approved
Order placed        2                            16.80    1.18  rejected  pending approved rejected
Order placed        3                             9.50    0.67  pending   pending
Order placed        4                            12.00    0.84  approved  pending approved
Order placed        5                            11.20    0.78  pending   pending
"""

MANAGE = Path(__file__).resolve().parent.parent / "dummy_project" / "manage.py"
SECONDS = 120

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="The demo is ended by POSIX signals here."),
    # It has a database of its own, whatever the tests use.
    pytest.mark.only_on("sqlite"),
]


@contextmanager
def manage(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run manage.py; whatever happens, nothing that it has started is left."""
    # As a newcomer's shell has it: the development mode of Python would tell, on standard error, of
    # a connection that was open when somebody pressed Ctrl-C.
    not_theirs = ("DJANGO_SETTINGS_MODULE", "PYTHONDEVMODE")
    ours = {name: value for name, value in os.environ.items() if name not in not_theirs}
    process = subprocess.Popen(
        [sys.executable, str(MANAGE), *arguments],
        env={**ours, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        # A process group of its own, so that it can be ended with all its children.
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run manage.py to its end; return its exit code and what it has printed."""
    with manage(*arguments, **environment) as process:
        try:
            out, err = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, out, err


def answers(port: str) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", int(port))) == 0


def ports(out: str) -> set[str]:
    return set(re.findall(r"http://127\.0\.0\.1:(\d+)/", out))


class Story(NamedTuple):
    """What the demo has left: its exit code, its words, and the rows of the shop's database."""

    database: str
    code: int
    out: str
    err: str
    rows: dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Let the demo play its story once, for all tests that only look at what came of it."""
    database = str(tmp_path_factory.mktemp("demo") / "shop.sqlite3")
    code, out, err = run("demo", "--once", SHOP_DATABASE=database)
    _, dumped, _ = run("dumpdata", "affiliations", "store", SHOP_DATABASE=database)
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in json.loads(dumped):
        model = row["model"].partition(".")[2]
        rows.setdefault(model, []).append({"pk": row["pk"], **row["fields"]})
    return Story(database, code, out, err, rows)


class Line(NamedTuple):
    """A line of the table above."""

    trigger: str
    reference: str
    amount: str
    payout: str
    status: str
    told: list[str]

    @property
    def events(self) -> list[str]:
        """What each callback was about: the first the conversion, another one a decision."""
        decisions = {"approved": "approval", "rejected": "rejection"}
        return ["conversion", *(decisions[status] for status in self.told[1:])]

    @classmethod
    def read(cls, line: str) -> Line:
        texts = [line[start:end].strip() for start, end in ((0, 20), (20, 46), (46, 54), (54, 62))]
        status, *told = line[62:].split()
        return cls(*texts, status, told)


def table() -> list[Line]:
    return [Line.read(line) for line in STORY.strip().splitlines()[1:]]


def query(callback: dict[str, Any]) -> list[tuple[str, str]]:
    return parse_qsl(urlsplit(callback["url"]).query, keep_blank_values=True)


def money(value: str | None) -> str:
    """Write money as the table does; what is smaller than a cent must not be there."""
    if value is None:
        return ""
    assert value.endswith("00"), value
    return value[:-2]


def told(out: str) -> list[dict[str, str]]:
    """Return what the partner received, from the lines that the demo prints of it."""
    lines = re.findall(r"The partner received: (.*)", out)
    return [dict(re.findall(r"(\w+)=(.*?)(?:  |$)", line)) for line in lines]


def test_the_demo_plays_its_whole_story_and_ends_well(story: Story) -> None:
    assert story.code == 0, story.out + story.err
    assert "All steps had the expected results." in story.out
    steps = re.findall(r"^ +(\d+)\. ", story.out, re.MULTILINE)
    assert " ".join(steps) == "1 2 3 4 5 6 7 8 9 10"
    assert story.err == ""


def test_the_partners_link_is_followed_through_two_redirects(story: Story) -> None:
    hops = re.findall(r"^ +(\d{3}) http://127\.0\.0\.1:\d+(/\S*)", story.out, re.MULTILINE)
    assert [status for status, _ in hops] == ["302", "302", "200"]
    assert "affiliate_id=" in hops[1][1]
    assert "affiliate_id=" not in hops[2][1]


def test_each_conversion_of_the_story_is_the_one_in_the_table(story: Story) -> None:
    clicked, by_code = story.rows["visitor"]
    assert [
        Line(
            row["trigger"],
            row["reference"],
            money(row["amount"]),
            money(row["payout"]),
            row["status"],
            [
                dict(query(callback))["status"]
                for callback in story.rows["callback"]
                if callback["conversion"] == row["pk"]
            ],
        )
        for row in story.rows["conversion"]
    ] == table()
    for row in story.rows["conversion"]:
        has_code = row["reference"] == "5"
        assert row["visitor"] == (by_code if has_code else clicked)["pk"]
        assert row["code"] == ("steepnotes" if has_code else "")
        assert row["currency"] == ("EUR" if row["amount"] else "")
        assert row["payout_currency"] == "EUR"
        assert bool(row["decided_on"]) == (row["status"] != "pending")
        assert row["reason"] == ("Order refunded" if row["status"] == "rejected" else "")
    assert [visitor["source"] for visitor in (clicked, by_code)] == ["link", "code"]
    assert clicked["closed_on"] is None


def test_the_frozen_rules_are_those_that_were_agreed(story: Story) -> None:
    agreed = {row["pk"]: row for row in story.rows["subscription"]}
    assert len(agreed) == 3
    for row in story.rows["conversion"]:
        rule = agreed[row["subscription"]]
        assert [row[name] for name in ("trigger", "payout_type", "payout_value")] == [
            rule[name] for name in ("trigger", "payout_type", "payout_value")
        ]


def test_each_callback_url_of_the_story_says_what_the_table_says(story: Story) -> None:
    clicked, by_code = story.rows["visitor"]
    assert by_code["click_id"] == ""
    callbacks = iter(story.rows["callback"])
    for line in table():
        visitor = by_code if line.reference == "5" else clicked
        for event, status in zip(line.events, line.told, strict=True):
            callback = next(callbacks)
            assert callback["event"] == event
            assert query(callback) == [
                ("visitor_id", str(visitor["pk"])),
                ("click_id", visitor["click_id"]),
                ("event", event),
                ("status", status),
                ("trigger", line.trigger),
                ("reference", line.reference),
                ("amount", line.amount),
                ("currency", "EUR" if line.amount else ""),
                ("payout", line.payout),
                ("payout_currency", "EUR"),
                ("callback_id", callback["webhook_id"]),
            ]
    assert list(callbacks) == []


def test_each_callback_was_taken_by_the_partner_at_the_first_attempt(story: Story) -> None:
    assert {row["status"] for row in story.rows["callback"]} == {"delivered"}
    assert [row["callback"] for row in story.rows["callbackattempt"]] == [
        row["pk"] for row in story.rows["callback"]
    ]
    assert {row["status_code"] for row in story.rows["callbackattempt"]} == {200}


def test_the_partner_received_what_the_shop_has_sent_and_in_that_order(story: Story) -> None:
    assert told(story.out) == [
        {name: value for name, value in query(callback) if value and name != "callback_id"}
        for callback in story.rows["callback"]
    ]


def test_the_click_id_is_the_one_that_the_partner_gave(story: Story) -> None:
    [click_id] = set(re.findall(r"click_id=([0-9a-f]{8})&", story.out))
    assert story.rows["visitor"][0]["click_id"] == click_id


def test_each_order_keeps_the_visitor_and_what_became_of_it(story: Story) -> None:
    visitor, _ = story.rows["visitor"]
    assert [
        (row["pk"], row["affiliate_visitor"], bool(row["paid_on"]), bool(row["refunded_on"]))
        for row in sorted(story.rows["order"], key=lambda row: row["pk"])
    ] == [
        (1, visitor["pk"], True, False),
        (2, visitor["pk"], True, True),
        (3, visitor["pk"], False, False),
        (4, None, True, False),
        (5, None, False, False),
    ]
    assert len(story.rows["newsletterreader"]) == 2


def test_the_demo_leaves_no_process_behind(story: Story) -> None:
    used = ports(story.out)
    assert len(used) == 3
    assert not [port for port in used if answers(port)]


def test_the_story_can_be_played_again_on_the_same_data(story: Story) -> None:
    code, out, err = run("demo", "--once", SHOP_DATABASE=story.database)
    assert code == 0, out + err


def test_a_partner_that_refuses_its_callbacks_fails_the_demo_and_is_named() -> None:
    code, out, err = run("demo", "--once", "--partner-status", "503", "--patience", "20")
    assert code == 1
    assert "The partner received no callback of “User registered”" in err
    # Twice, if the machine is quick: the first retry comes after some 5 seconds.
    assert "The shop tried: the partner’s server returned an error (503)" in err
    # What each of the sites has printed is there to look at.
    assert '"POST /sign-up/ HTTP/1.1" 302' in err
    assert '"GET /callback/?visitor_id=1&click_id=' in err
    assert "the payment provider" in err
    assert "All steps had the expected results" not in out
    assert not [port for port in ports(out) if answers(port)]


def test_a_port_that_is_taken_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, _, err = run("demo", "--once", "--shop-port", port)
    assert code == 1
    assert err.startswith(f"CommandError: Port {port} is taken.")


def test_the_demo_waits_until_it_is_ended_and_can_be_started_again_on_the_same_data(
    tmp_path: Path,
) -> None:
    database = tmp_path / "shop.sqlite3"
    for ending, code, told in (
        (signal.SIGINT, 0, f"The demo keeps its data in {database}\n"),
        (signal.SIGTERM, 128 + signal.SIGTERM, f"The data of earlier runs is kept in {database}\n"),
    ):
        with manage("demo", *free_ports(), SHOP_DATABASE=str(database)) as process:
            guide = read_until(process, "Ctrl-C stops everything.")
            assert guide.startswith(told)
            assert "name admin, password second-infusion" in guide
            assert len(ports(guide)) == 3
            assert all(answers(port) for port in ports(guide))
            process.send_signal(ending)
            out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == code, out + err
        assert err == ""
        assert not [port for port in ports(guide) if answers(port)]
    with sqlite3.connect(database) as connection:
        count = "SELECT count(*) FROM "
        rows = {
            table: connection.execute(count + table).fetchone()[0]
            for table in (
                "affiliations_partner",
                "affiliations_partnercode",
                "affiliations_subscription",
                "auth_user",
                "store_product",
            )
        }
    connection.close()
    assert rows == {
        "affiliations_partner": 1,
        "affiliations_partnercode": 1,
        "affiliations_subscription": 3,
        "auth_user": 1,
        "store_product": 6,
    }


def test_the_demo_begins_afresh_if_it_is_told_to(tmp_path: Path) -> None:
    database = tmp_path / "shop.sqlite3"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE of_an_earlier_run (id integer)")
    connection.close()
    with manage("demo", "--fresh", *free_ports(), SHOP_DATABASE=str(database)) as process:
        read_until(process, "Ctrl-C stops everything.")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SECONDS)
    with sqlite3.connect(database) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()
    assert "auth_user" in tables
    assert "of_an_earlier_run" not in tables


def test_the_shop_and_the_demo_pass_their_own_tests() -> None:
    """Among them: a webhook with a wrong signature is refused, a repeated one changes nothing."""
    code, _, err = run("test", "--verbosity", "2", "store", "demo")
    assert code == 0, err
    assert "test_a_payment_with_a_wrong_signature_is_refused" in err
    assert "test_the_same_payment_again_changes_nothing" in err


def test_the_shops_migrations_are_up_to_date() -> None:
    code, out, err = run("makemigrations", "--check", "--dry-run")
    assert code == 0, out + err


def test_the_shop_has_nothing_for_the_system_checks_to_find() -> None:
    code, out, err = run("check", "--fail-level", "WARNING")
    assert code == 0, out + err


def free_ports() -> list[str]:
    """Choose three ports as nobody else would: the usual ones may be a developer's own."""
    arguments = []
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        for name, listener in (("shop", one), ("partner", two), ("payment", three)):
            listener.bind(("127.0.0.1", 0))
            arguments += [f"--{name}-port", str(listener.getsockname()[1])]
    return arguments


def read_until(process: subprocess.Popen[str], end: str) -> str:
    """Read what a process prints, up to a line that ends so."""
    read, deadline = "", time.monotonic() + SECONDS
    assert process.stdout is not None
    for line in process.stdout:
        read += line
        if line.rstrip().endswith(end):
            return read
        assert time.monotonic() < deadline, read
    raise AssertionError(f"It ended first:\n{read}")
