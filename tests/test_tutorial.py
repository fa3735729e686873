"""The tutorial works: a reader who does only what its pages say gets through, see tutorial.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tutorial import (
    NAMES,
    PORTS,
    Misprint,
    Terminal,
    everything,
    free_ports,
    parts,
    reading,
    understood,
)

#: What is installed: each file of a build, if there is one, or else a wheel of this checkout.
DIST = os.environ.get("AFFILIATIONS_TEST_DIST")
PACKAGES = {file.suffix: file for file in Path(DIST).iterdir()} if DIST else {".whl": None}


def test_every_page_says_something_and_every_step_is_understood() -> None:
    found = everything(PORTS)
    assert {part.place.partition(".")[0] for part in found} == set(NAMES)
    for part in found:
        if part.kind == "step":
            understood(part.what)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (".. code-block:: python\n\n   x = 1", "a block needs a caption"),
        ("Then you see “Saved”.", "only a step may say what is on the screen"),
        ("Run this::\n\n    python manage.py migrate", "only a step"),
    ],
)
def test_what_the_reader_would_pass_over_is_a_misprint(text: str, message: str) -> None:
    with pytest.raises(Misprint, match=message):
        list(parts(text, "page"))


@pytest.mark.parametrize(
    "step", ["Press *Save*.", "Click *Save* twice.", "You see a message.", "Click *Save*"]
)
def test_a_step_in_other_words_is_a_misprint(step: str) -> None:
    with pytest.raises(Misprint, match="does not understand"):
        understood(step)


@pytest.mark.server
@pytest.mark.parametrize(
    ("command", "shown", "message"),
    [
        ("false", "", "has failed"),
        ("echo one; echo two", "one", "does not print what is shown"),
        ("echo one; echo two", "...\none", "does not print what is shown"),
        ("echo two", "one\ntwo", "does not print what is shown"),
    ],
)
def test_a_command_that_does_something_else_is_a_misprint(
    command: str, shown: str, message: str, tmp_path: Path
) -> None:
    terminal = Terminal(tmp_path, {"PATH": "/usr/bin:/bin"})
    try:
        terminal.wait(terminal.PROMPT.search)
        terminal.run("echo one; echo two", "one\ntwo")
        terminal.run("echo one; echo two", "...\ntwo")
        with pytest.raises(Misprint, match=message):
            terminal.run(command, shown)
    finally:
        terminal.close()


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("package", PACKAGES.values(), ids=PACKAGES)
@pytest.mark.server
@pytest.mark.slow
@pytest.mark.timeout(1200)  # It installs Django and the package.
@pytest.mark.skipif(sys.platform == "win32", reason="The pages are typed into a shell of POSIX.")
def test_a_newcomer_gets_through_by_doing_what_the_pages_say(
    tmp_path: Path, browser: Any, package: Path | None
) -> None:
    with reading(tmp_path, browser, package) as reader:
        for part in everything(free_ports()):
            reader.follow(part)
        # The partner has received nothing after what the last page shows.
        assert reader.terminals["Third"].new() == ""
