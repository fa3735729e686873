"""Partners of another system, imported from a file: all of them, or none."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from affiliations import partner_import
from affiliations.conversions import stop_for_fraud
from affiliations.models import Partner, PartnerCode
from tests.factories import PartnerFactory
from tests.hosts import HANG, manage
from tests.test_admin import url

pytestmark = pytest.mark.django_db


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes a file and imports it; it returns what is printed."""

    def write(content: str | bytes, **options: Any) -> str:
        file, printed = tmp_path / "partners.csv", io.StringIO()
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        call_command("import_affiliations", file, stdout=printed, **options)
        return printed.getvalue()

    return write


@pytest.fixture
def refused(run: Callable[..., str]) -> Callable[..., list[str]]:
    """Return a function that imports a file with mistakes, and returns them."""

    def write(content: str | bytes, **options: Any) -> list[str]:
        before = stored()
        with pytest.raises(CommandError) as caught:
            run(content, **options)
        assert stored() == before
        *mistakes, summary = str(caught.value).splitlines()
        plural = "" if len(mistakes) == 1 else "s"
        assert summary == f"{len(mistakes)} mistake{plural}. Nothing was imported."
        return mistakes

    return write


def stored() -> list[tuple[Any, ...]]:
    """Return all partners with their codes."""
    return [
        (
            *(partner.name, partner.email, partner.uid, partner.group, partner.active),
            sorted(partner.codes.values_list("code", flat=True)),
        )
        for partner in Partner.objects.prefetch_related("codes").order_by("name")
    ]


FILE = """\
name,email,uid,code,group,active
Steep Notes,anna@steep.example,moox6esi,STEEP10,Bloggers,yes
The Cup,cup@example.org,partner-17,,,no
Leaf & Co,,,leaf_co,Shops,TRUE
Nobody's,,,,,
"""


KNOWN = "The columns are: name, email, uid, code, group, active."


def random_uid(name: str) -> str:
    return Partner.objects.get(name=name).uid


class TestAFile:
    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    @pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
    @pytest.mark.parametrize(
        "encoding", ["utf-8", "utf-8-sig", "cp1252", "latin-1", "utf-16"], ids=str
    )
    def test_is_imported_however_it_is_written(
        self, run: Callable[..., str], delimiter: str, newline: str, encoding: str
    ) -> None:
        text = FILE.replace("The Cup", "Thé “Cup”" if encoding == "cp1252" else "Thé Cup")
        raw = text.replace(",", delimiter).replace("\n", newline).encode(encoding)
        given = {} if encoding.startswith("utf-8") else {"encoding": encoding}
        printed = run(raw, **given)
        name = "Thé “Cup”" if encoding == "cp1252" else "Thé Cup"
        assert stored() == [
            ("Leaf & Co", "", random_uid("Leaf & Co"), "Shops", True, ["leaf_co"]),
            ("Nobody's", "", random_uid("Nobody's"), "", False, []),
            ("Steep Notes", "anna@steep.example", "moox6esi", "Bloggers", True, ["STEEP10"]),
            (name, "cup@example.org", random_uid(name), "", False, ["partner-17"]),
        ]
        assert printed == (
            "Partners created: 4, changed: 0, unchanged: 0. Codes added: 3.\n"
            "Inactive: 2. The clicks of these are not tracked.\n"
        )

    def test_that_is_imported_twice_changes_nothing_twice(self, run: Callable[..., str]) -> None:
        run(FILE)
        before = stored(), list(Partner.objects.order_by("pk").values())
        for update in (False, True):
            assert run(FILE, update=update) == (
                "Partners created: 0, changed: 0, unchanged: 4. Codes added: 0.\n"
            )
            assert (stored(), list(Partner.objects.order_by("pk").values())) == before

    def test_is_only_looked_at_in_a_dry_run(self, run: Callable[..., str]) -> None:
        printed = run(FILE, dry_run=True)
        assert printed.startswith(
            "Nothing was imported. This would be: Partners created: 4, changed: 0, "
            "unchanged: 0. Codes added: 3."
        )
        assert stored() == []

    def test_makes_partners_whose_links_and_codes_work(self, run: Callable[..., str]) -> None:
        run(FILE)
        for text, name in ((b"moox6esi", "Steep Notes"), (b"LEAF_CO", "Leaf & Co")):
            partner = PartnerCode.objects.find_partner(text)
            assert partner is not None
            assert partner.name == name
        secrets = Partner.objects.values_list("signing_secret", flat=True)
        assert len(set(secrets)) == 4
        assert all(partner.created_on for partner in Partner.objects.all())

    def test_may_have_its_columns_in_any_order_and_empty_lines_and_cells(
        self, run: Callable[..., str]
    ) -> None:
        run("\n,,\n Active , NAME ,,\n\n yes , Steep Notes ,,\n,,\n1,The Cup\n")
        assert [(row[0], row[4]) for row in stored()] == [("Steep Notes", True), ("The Cup", True)]

    def test_may_have_formulas_which_stay_text(
        self, run: Callable[..., str], staff: Client
    ) -> None:
        run('name,group\n"=HYPERLINK(""https://evil.example"")",+1\n')
        [row] = stored()
        assert (row[0], row[3]) == ('=HYPERLINK("https://evil.example")', "+1")
        exported = b"".join(staff.get(url(Partner, "csv")).streaming_content)  # type: ignore[attr-defined]
        assert b'\n"=' not in exported
        assert b"\n=" not in exported

    def test_may_have_a_comma_and_quotation_marks_in_a_name(self, run: Callable[..., str]) -> None:
        run('name\n"Leaf, ""Cup"" & Co"\n')
        assert stored()[0][0] == 'Leaf, "Cup" & Co'


class TestAMistake:
    def test_lets_nothing_be_imported_and_all_are_told(
        self, refused: Callable[..., list[str]]
    ) -> None:
        mistakes = refused(
            "name,email,uid,code,group,active\n"
            "Good,good@example.org,,,,yes\n"
            ",no address,ab,a b,,maybe\n"
            "Bad,still none,,,,\n"
            f"{'x' * 251},,,,{'g' * 101},\n"
        )
        unfit = (
            "Enter 3 to 40 characters: letters from a to z, digits, - and _. Begin and end with a "
            "letter or a digit."
        )
        assert mistakes == [
            "Line 3: The name is missing.",
            "Line 3: active is “maybe”, but must be yes or no.",
            f"Line 3: “ab” cannot be a code. {unfit}",
            f"Line 3: “a b” cannot be a code. {unfit}",
            "Line 4: email: Enter a valid email address.",
            "Line 5: name: Ensure this value has at most 250 characters (it has 251).",
            "Line 5: group: Ensure this value has at most 100 characters (it has 101).",
        ]

    def test_is_found_in_a_dry_run_too(self, refused: Callable[..., list[str]]) -> None:
        assert refused("name,email\nA,b\n", dry_run=True) == [
            "Line 2: email: Enter a valid email address."
        ]

    def test_is_in_the_line_where_it_is_in_the_file(
        self, refused: Callable[..., list[str]]
    ) -> None:
        mistakes = refused(
            'name,email\r\n\r\n"two\r\nlines",\r\nBad,none\r\n"as\nquoted",\r\nWorse,none\r\n'
        )
        broken = "The name has a line break or another control character."
        assert mistakes == [
            f"Line 3: {broken}",
            "Line 5: email: Enter a valid email address.",
            f"Line 6: {broken}",
            "Line 8: email: Enter a valid email address.",
        ]

    @pytest.mark.parametrize("character", ["\0", "\x07", "\x1b", "\x7f", "\x85", "\u2028"])
    def test_is_a_control_character(
        self, refused: Callable[..., list[str]], character: str
    ) -> None:
        [mistake] = refused(f"name,group\nA,x{character}y\n")
        assert mistake.startswith("Line 2: ")
        assert "control character" in mistake or "NUL" in mistake
        # Nor does the terminal get any.
        mistakes = refused(f"name,active\nA,x{character}y\n", dry_run=True)
        assert character not in "".join(mistakes)

    @pytest.mark.parametrize(
        ("header", "expected"),
        [
            ("name,e-mail", ["The column “e-mail” is unknown. Did you mean “email”?"]),
            ("Name,Grupo", ["The column “Grupo” is unknown. Did you mean “group”?"]),
            ("name,NAME", ["The column “NAME” is there twice."]),
            ("name,,email", [f"The column “” is unknown. {KNOWN}"]),
            ("name,\x1b[2J", [f"The column “\ufffd[2J” is unknown. {KNOWN}"]),
            ("email", [f"The first line must name the columns, and “name” among them. {KNOWN}"]),
            ("Anna,a@b.example", None),
            ("", None),
        ],
    )  # fmt: skip
    def test_of_the_header_is_told_alone(
        self, refused: Callable[..., list[str]], header: str, expected: list[str] | None
    ) -> None:
        mistakes = refused(f"{header}\n,none,,\n" if header else "")
        if expected is None:
            assert "must name the columns" in mistakes[-1]
        else:
            assert mistakes == [f"Line 1: {text}" for text in expected]

    @pytest.mark.parametrize("cells", ["A", "A,b@c.example,x", "A;b@c.example"])
    def test_is_a_line_with_other_cells(
        self, refused: Callable[..., list[str]], cells: str
    ) -> None:
        [mistake] = refused(f"name,email\n{cells}\n")
        assert mistake.startswith("Line 2: The line has ")
        assert mistake.endswith("but the first line has 2.")

    @pytest.mark.parametrize(
        "cell", ['"open', '"closed" too early', f'"{"x" * 140_000}'], ids=["open", "early", "long"]
    )
    def test_is_a_quotation_mark_that_ends_nowhere(
        self, refused: Callable[..., list[str]], cell: str
    ) -> None:
        first, second = refused(f"name,email\nBad,none\n{cell},\nA,\n")
        assert first == "Line 2: email: Enter a valid email address."
        assert second.startswith("Line 3: This is not valid CSV (")
        assert second.endswith("The lines from here on were not read.")

    def test_of_the_encoding_says_what_to_do(self, run: Callable[..., str]) -> None:
        with pytest.raises(CommandError, match=r"^Line 3 is not utf-8\. Save .*cp1252"):
            run("name\r\nA\r\nThé Cup\r\n".encode("latin-1"))
        with pytest.raises(CommandError, match="unknown encoding: klingon"):
            run("name\n", encoding="klingon")
        with pytest.raises(CommandError, match="not a text encoding"):
            run("name\n", encoding="hex")

    def test_is_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        for path in (tmp_path / "nowhere.csv", tmp_path):
            with pytest.raises(CommandError, match="Errno"):
                call_command("import_affiliations", path)

    def test_is_what_the_database_cannot_store(
        self, refused: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(partner_import.db, "can_store", str.isascii)
        assert refused("name,group\nThé Cup,x\n") == [
            "Line 2: The name has characters that the database cannot store."
        ]


class TestALineThatIsThereTwice:
    @pytest.mark.parametrize(
        ("lines", "twice"),
        [
            (["A,a@b.example,,", "A,a@b.example,,"], "The partner"),
            (["A,a@b.example,,", "a,A@B.EXAMPLE,,"], "The partner"),
            (["A,,moox6esi,", "B,,moox6esi,"], "“moox6esi”"),
            (["A,,moox6esi,", "B,,MOOX6ESI,"], "“moox6esi”"),
            (["A,,moox6esi,", "B,,,Moox6esi"], "“moox6esi”"),
            (["A,,,Steep10", "B,,,STEEP10"], "“steep10”"),
            (["A,,partner-1,", "B,,,PARTNER-1"], "“partner-1”"),
            (["A,,,steep10", "B,,moox6esi,STEEP10"], "“steep10”"),
        ],
    )
    def test_is_refused_whatever_its_case(
        self, refused: Callable[..., list[str]], lines: list[str], twice: str
    ) -> None:
        text = "\n".join(["name,email,uid,code", *lines])
        assert refused(text) == [f"Line 3: {twice} is already in line 2."]

    def test_may_have_the_name_of_another_partner(self, run: Callable[..., str]) -> None:
        run("name,email,code\nA,,one\nA,,two\nA,a@b.example,\nA,,\n")
        assert len(stored()) == 4

    def test_by_two_names_of_one_partner_is_refused(
        self, run: Callable[..., str], refused: Callable[..., list[str]]
    ) -> None:
        run("name,uid,code\nA,moox6esi,steep10\n")
        assert refused("name,uid,code\nA,moox6esi,\nA,,steep10\n") == [
            "Line 3: Partner “A” (moox6esi) is already in line 2."
        ]


class TestAPartnerThatExists:
    @pytest.fixture
    def partner(self) -> Partner:
        partner = PartnerFactory(uid="moox6esi", name="Steep Notes", email="anna@steep.example")
        PartnerCode.objects.create(partner=partner, code="STEEP10")
        return partner

    @pytest.mark.parametrize(
        ("columns", "line", "differs"),
        [
            ("uid,name", "moox6esi,Steep Nodes", "name"),
            ("code,name,group", "steep10,Steep Notes,Bloggers", "group"),
            ("uid,name,active,email", "moox6esi,Steep Notes,no,b@c.example", "email and active"),
            ("uid,name,code", "moox6esi,Steep Notes,new-code", "code"),
            ("uid,name,code", "steep10,Steep Notes,new-code", "code"),
            ("name,email,group", "Steep Notes,anna@steep.example,Bloggers", "group"),
        ],
    )
    def test_is_changed_only_if_that_is_meant(
        self,
        partner: Partner,
        run: Callable[..., str],
        refused: Callable[..., list[str]],
        columns: str,
        line: str,
        differs: str,
    ) -> None:
        file = f"{columns}\n{line}\n"
        [mistake] = refused(file)
        assert mistake == (
            f"Line 2: Partner “Steep Notes” (moox6esi) exists already, with another {differs}. Use "
            "--update to change existing partners."
        )
        changed = 0 if differs == "code" else 1
        assert run(file, update=True).startswith(f"Partners created: 0, changed: {changed}, ")
        [row] = stored()
        assert row[2] == "moox6esi"
        for column, value in zip(columns.split(","), line.split(","), strict=True):
            shown = {"name": row[0], "email": row[1], "group": row[3]}.get(column, value)
            assert shown == value
        assert row[5] == (["STEEP10", "new-code"] if differs == "code" else ["STEEP10"])
        assert run(file).startswith("Partners created: 0, changed: 0, ")

    def test_keeps_what_the_file_leaves_empty(
        self, partner: Partner, run: Callable[..., str]
    ) -> None:
        Partner.objects.update(group="Bloggers", notes="Pays late")
        file = "uid,name,email,group,active\nmoox6esi,Steep Notes,,,\n"
        assert "unchanged: 1." in run(file)
        assert stored()[0][1:5] == ("anna@steep.example", "moox6esi", "Bloggers", True)
        run("uid,name\nmoox6esi,Steep Nodes\n", update=True)
        assert Partner.objects.get().notes == "Pays late"

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            ("MOOX6ESI,,X", "“MOOX6ESI” differs only in upper and lower case from the uid of"),
            ("newuid12,STEEP10,X", "“STEEP10” is a code of Partner “Steep Notes” (moox6esi)."),
            (",MOOX6esi,X", "“MOOX6esi” is the uid of Partner “Steep Notes” (moox6esi)."),
            ("codecode,,X", "“codecode” is a code of Partner “The Cup” (cupcup12)."),
            ("moox6esi,codecode,X", "“codecode” is a code of Partner “The Cup” (cupcup12)."),
            ("steep-10,STEEP10,X", ""),
            ("the-cup,STEEP10,X", "“STEEP10” is a code of Partner “Steep Notes” (moox6esi)."),
        ],
    )
    def test_is_not_mixed_up_with_another(
        self, partner: Partner, refused: Callable[..., list[str]], line: str, why: str
    ) -> None:
        other = PartnerFactory(uid="cupcup12", name="The Cup")
        for code in ("codecode", "the-cup"):
            PartnerCode.objects.create(partner=other, code=code)
        [mistake] = refused(f"uid,code,name\n{line}\n")
        assert why in mistake or why == ""

    def test_may_have_its_uid_as_its_code(self, partner: Partner, run: Callable[..., str]) -> None:
        run("uid,code,name\nmoox6esi,MOOX6ESI,Steep Notes\n")
        assert stored()[0][5] == ["STEEP10"]

    def test_that_was_stopped_for_fraud_stays_so(
        self, partner: Partner, run: Callable[..., str], refused: Callable[..., list[str]]
    ) -> None:
        stop_for_fraud(partner, reason="Fraud")
        [mistake] = refused("uid,name,active\nmoox6esi,Steep Notes,yes\n", update=True)
        assert "This partner was stopped for fraud." in mistake
        run("uid,name,group\nmoox6esi,Steep Notes,Stopped\n", update=True)
        assert stored()[0][3:5] == ("Stopped", False)

    @pytest.mark.parametrize("first", ["stop", "delete", "take the uid", "take the code"])
    def test_and_changes_meanwhile_is_left_alone(self, partner: Partner, first: str) -> None:
        plan = partner_import.plan(
            "uid,code,name,active\nmoox6esi,,Steep Nodes,yes\nnewuid12,new-code,New,yes\n",
            update=True,
        )
        assert plan.mistakes == []
        if first == "stop":
            Partner.objects.filter(pk=partner.pk).update(active=False, stopped_on=timezone.now())
        elif first == "delete":
            partner.codes.all().delete()
            partner.delete()
        elif first == "take the uid":
            PartnerFactory(uid="newuid12")
        else:
            PartnerCode.objects.create(partner=partner, code="NEW-code")
        before = stored()
        with pytest.raises(partner_import.ChangedMeanwhile):
            partner_import.carry_out(plan)
        assert stored() == before

    def test_and_changes_meanwhile_is_told(
        self, run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def changed(found: Any) -> None:
            raise partner_import.ChangedMeanwhile

        monkeypatch.setattr(partner_import, "carry_out", changed)
        with pytest.raises(CommandError, match="Nothing was imported"):
            run(FILE)


def test_a_new_uid_is_no_code_and_no_uid(
    run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uids = iter(["takenuid", "takencod", "fileuid1", "freeuid1"])
    PartnerCode.objects.create(partner=PartnerFactory(uid="takenuid", name="A"), code="TAKENCOD")
    monkeypatch.setattr(partner_import, "new_uid", lambda: next(uids))
    run("uid,name\nfileuid1,B\n,C\n")
    assert random_uid("C") == "freeuid1"


def test_rows_are_read_at_once_and_written_in_batches(run: Callable[..., str]) -> None:
    def queries(count: int, **options: Any) -> int:
        lines = "".join(f"P {number},code-{number},G{len(options)}\n" for number in range(count))
        with CaptureQueriesContext(connection) as captured:
            run(f"name,code,group\n{lines}", **options)
        return len(captured)

    # How many rows a batch has depends on the database, and on SQLite on the version of Django.
    assert queries(400) < 40
    assert queries(400, dry_run=True, update=True) == 2
    assert queries(400, update=True) < 40


@pytest.mark.server
def test_a_mistake_ends_the_command_with_1(tmp_path: Path) -> None:
    file = tmp_path / "partners.csv"
    file.write_text("nmae\n", encoding="utf-8")
    with manage("import_affiliations", str(file)) as process:
        assert process.popen.wait(HANG) == 1
        assert "Line 1: The column “nmae” is unknown. Did you mean “name”?" in process.said()
