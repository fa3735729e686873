"""The form of the documentation: headings, paths, and what the reference takes from the code."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from affiliations import checks, database_checks, placeholders
from affiliations.conf import Setting, Settings
from affiliations.models import Visitor

ROOT = Path(__file__).parent.parent
ROOT_PAGES = [*sorted(ROOT.glob("*.rst")), ROOT / "SECURITY.md"]
PAGES = [*sorted((ROOT / "docs").rglob("*.rst")), *ROOT_PAGES]
LEVELS = "=-~"

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module that reads the code for the reference."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "extension")
    return import_module("entries")


def text_of(entries: Any, source: str) -> dict[str, str]:
    return {
        entry.name: "\n".join([*entry.above, *entry.below]) for entry in entries.SOURCES[source]()
    }


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.suffix == ".rst"], ids=lambda page: page.name
)
def test_headings_have_the_same_levels_on_every_page(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    found = [
        (title, line)
        for title, line in pairwise(lines)
        if re.fullmatch(r"([^\w\s])\1{2,}", line) and title and not title.startswith(" ")
    ]
    assert [title for title, line in found if len(line) != len(title)] == []
    depths = [LEVELS.index(line[0]) for _title, line in found]
    assert depths[0] == 0
    assert depths.count(0) == 1
    assert [found[at + 1] for at, (a, b) in enumerate(pairwise(depths)) if b > a + 1] == []


@pytest.mark.parametrize(
    "page",
    [*PAGES, *sorted((ROOT / "affiliations").rglob("*.py"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_every_path_into_the_documentation_exists(page: Path) -> None:
    named = re.findall(r"(?<![\w./-])docs/[\w./-]*\w", page.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", ROOT_PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_beside_the_readme_names_exists(page: Path) -> None:
    named = re.findall(r"`([\w./-]+\.(?:ini|md|rst|toml|yaml))`", page.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_a_new_setting_is_in_the_reference(entries: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    new = Setting[str](
        "AFFILIATE_SHADE", "dark", doc="The *shade*.", must_be='"dark", AFFILIATE_HUE or ["a", "b"]'
    )
    monkeypatch.setattr(Settings, "shade", new, raising=False)
    assert text_of(entries, "settings")["AFFILIATE_SHADE"].splitlines() == [
        r"The \*shade\*.",
        "",
        '| Default: ``"dark"``',
        '| Valid: ``"dark"``, ``AFFILIATE_HUE`` or ``["a", "b"]``',
    ]
    assert "| Mandatory" in text_of(entries, "settings")["AFFILIATE_TRIGGERS"]


def test_each_check_is_in_the_reference_with_its_messages(entries: Any) -> None:
    source = inspect.getsource(checks) + inspect.getsource(database_checks)
    found = text_of(entries, "checks")
    assert found.keys() == set(re.findall(r"affiliations\.[EW]\d{3}", source))
    assert found["affiliations.W013"].count("<name> is not a setting of affiliations") == 1
    assert found["affiliations.W012"].count("HINT: ") == 2
    assert "Write, for example: AFFILIATE_COOKIE_NAME" in found["affiliations.E013"]
    assert f"HINT: Move the line {checks._MIDDLEWARE!r} below it." in found["affiliations.E004"]
    assert [name for name, text in found.items() if "--deploy" in text] == [
        f"affiliations.W00{number}" for number in (3, 4, 5, 6, 7)
    ]


def test_a_new_placeholder_is_in_the_reference(
    entries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = placeholders.Placeholder("hue", "The hue.", "test-hue", lambda callback: "")
    monkeypatch.setattr(placeholders, "PLACEHOLDERS", (*placeholders.PLACEHOLDERS, new))
    text = text_of(entries, "placeholders")
    assert text["{hue}"] == "The hue. In a test callback: ``test-hue``."
    assert text["{partner_uid}"] == "The partner’s uid."


def test_each_reason_and_error_is_in_the_reference_with_its_cure(entries: Any) -> None:
    reasons, errors = text_of(entries, "reasons"), text_of(entries, "errors")
    assert reasons["bot"].startswith("**Known bot or crawler.**\n\ncurl, ")
    assert "``AFFILIATE_IGNORE_BOTS = False``" in reasons["bot"]
    assert errors["blocked_address"].count("127.0.0.0/8") == 1


def test_each_command_is_in_the_reference_with_its_options(entries: Any) -> None:
    found = text_of(entries, "commands")
    assert ".. option:: --loop\n" in found["deliver_callbacks"]
    assert ".. option:: --max-age SECONDS\n" in found["check_callbacks"]
    assert ".. option:: --format text|json|prometheus\n" in found["check_callbacks"]
    assert ".. option:: <file>\n" in found["import_affiliations"]
    assert "--settings" not in str(found)


def test_each_model_is_in_the_reference_with_its_public_names(entries: Any) -> None:
    found = text_of(entries, "models")
    assert found.keys() >= {"Partner", "CallbackAttempt"}
    assert "Report" not in found  # a proxy
    assert ":members: link, link_with_macros, test_link, " in found["Partner"]
    assert ":members:" not in found["Visitor"]


def test_a_field_is_described_by_its_help_text_and_its_comment(entries: Any) -> None:
    def lines(name: str, comment: str = "") -> list[str]:
        found: list[str] = entries.field_lines(Visitor._meta.get_field(name), comment)
        return found

    assert lines("user", "Who bought.")[:2] == [
        "``user`` : ForeignKey to User, may be null",
        "    Who bought.",
    ]
    assert lines("sub2")[1] == "    Sub id 2."
    assert lines("source", "A comment.")[1].endswith(
        " your own code. A comment. One of ``link`` (Link), ``code`` (Code on an order), ``api`` "
        "(Without a landing page)."
    )
