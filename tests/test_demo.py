"""The demo, run as a newcomer runs it: in processes of its own, over HTTP."""

from __future__ import annotations

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

import pytest

MANAGE = Path(__file__).resolve().parent.parent / "dummy_project" / "manage.py"
SECONDS = 120

pytestmark = pytest.mark.skipif(os.name == "nt", reason="The demo is ended by POSIX signals here.")


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
    try:
        with process:
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


@pytest.fixture(scope="module")
def story() -> tuple[int, str, str]:
    """Let the demo play its story once, for all tests that only read what it printed."""
    return run("demo", "--once")


def told(out: str) -> list[dict[str, str]]:
    """Return what the partner received, from the lines that the demo prints of it."""
    lines = re.findall(r"The partner received: (.*)", out)
    return [dict(re.findall(r"(\w+)=(.*?)(?:  |$)", line)) for line in lines]


def test_the_demo_plays_its_whole_story_and_ends_well(story: tuple[int, str, str]) -> None:
    code, out, err = story
    assert code == 0, out + err
    assert "The whole story happened as it should." in out
    assert re.findall(r"^ +(\d)\. ", out, re.MULTILINE) == ["1", "2", "3", "4", "5", "6"]
    assert err == ""


def test_the_partners_link_is_followed_through_two_redirects(story: tuple[int, str, str]) -> None:
    hops = re.findall(r"^ +(\d{3}) http://127\.0\.0\.1:\d+(/\S*)", story[1], re.MULTILINE)
    assert [status for status, _ in hops] == ["302", "302", "200"]
    assert "affiliate_id=" in hops[1][1]
    assert "affiliate_id=" not in hops[2][1]


def test_the_partner_receives_a_callback_for_each_thing_agreed(
    story: tuple[int, str, str],
) -> None:
    callbacks = told(story[1])
    assert [callback["trigger"] for callback in callbacks] == [
        "User registered",
        "Order placed",
        "Order paid",
    ]
    assert {callback["event"] for callback in callbacks} == {"conversion"}
    assert {callback["visitor_id"] for callback in callbacks} == {"1"}


def test_each_callback_names_the_click_that_the_partner_gave(story: tuple[int, str, str]) -> None:
    click_id = re.findall(r"click_id=([0-9a-f]{8})&", story[1])[0]
    assert {callback["click_id"] for callback in told(story[1])} == {click_id}


def test_a_payment_from_another_process_reaches_the_partner_with_its_amount(
    story: tuple[int, str, str],
) -> None:
    paid = told(story[1])[-1]
    assert (paid["reference"], paid["amount"], paid["currency"]) == ("1", "12.00", "EUR")


def test_the_demo_leaves_no_process_behind(story: tuple[int, str, str]) -> None:
    used = ports(story[1])
    assert len(used) == 3
    assert not [port for port in used if answers(port)]


def test_a_partner_that_refuses_its_callbacks_fails_the_demo_and_is_named() -> None:
    code, out, err = run("demo", "--once", "--partner-status", "503", "--patience", "5")
    assert code == 1
    assert "The partner received no callback of “User registered”" in err
    assert "The shop tried: the partner’s server answered with an error (503)." in err
    # What each of the sites has printed is there to look at.
    assert '"POST /sign-up/ HTTP/1.1" 302' in err
    assert '"GET /callback/?visitor_id=1&click_id=' in err
    assert "the payment provider" in err
    assert "The whole story happened" not in out
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
    for ending, code in ((signal.SIGINT, 0), (signal.SIGTERM, 128 + signal.SIGTERM)):
        with manage("demo", *free_ports(), SHOP_DATABASE=str(database)) as process:
            guide = read_until(process, "Ctrl-C stops everything.")
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
                "affiliations_subscription",
                "auth_user",
                "store_product",
            )
        }
    connection.close()
    assert rows == {
        "affiliations_partner": 1,
        "affiliations_subscription": 3,
        "auth_user": 1,
        "store_product": 6,
    }


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
