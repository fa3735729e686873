"""
Import partners from a CSV file, such as from another affiliate system.

A file is read as a whole, and compared with the existing partners, before anything is written. The
time is linear in its length, and the number of queries grows only with the number of batches.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from io import StringIO
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from affiliations import db
from affiliations.models import Partner, PartnerCode
from affiliations.models.partner import PartnerQuerySet, new_uid
from affiliations.query_strings import UID_LENGTH

COLUMNS = ("name", "email", "uid", "code", "group", "active")

#: The columns that are fields of a partner and can change.
_FIELDS = ("name", "email", "group", "active")
#: What the validation of a partner reads.
_READ = ("uid", *_FIELDS, "notify", "minimum_payout", "minimum_payout_currency", "stopped_on")
_FLAGS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
#: The uids that this app makes; 0.12 made them in upper case.
_UID = re.compile(rf"[A-Za-z0-9]{{{UID_LENGTH}}}")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LINE_BREAK = re.compile(rb"\r\n|\r|\n")
_DELIMITERS = "\t;,"
_BATCH = 500
#: The maximum number of characters of a value that a mistake quotes.
_QUOTED = 60


class ChangedMeanwhile(Exception):
    """A partner was changed, or a uid or code taken, after the file was compared."""


@dataclass(frozen=True)
class Mistake:
    line: int
    text: str

    def __str__(self) -> str:
        return f"Line {self.line}: {self.text}"


@dataclass
class Plan:
    """What an import does."""

    created: list[Partner] = field(default_factory=list)
    #: Existing partners, with their new values.
    changed: list[Partner] = field(default_factory=list)
    #: The fields that change, of any partner.
    changed_fields: set[str] = field(default_factory=set)
    #: New codes, of new and of existing partners.
    codes: list[PartnerCode] = field(default_factory=list)
    unchanged_count: int = 0
    mistakes: list[Mistake] = field(default_factory=list)


def decode(raw: bytes, encoding: str = "utf-8") -> str:
    """
    Return the text of a file; a byte order mark is removed.

    Raises:
        LookupError: If the encoding is unknown.
        ValueError: If the file has another encoding.
    """
    try:
        return raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = len(_LINE_BREAK.findall(raw[: error.start])) + 1
        raise ValueError(
            f"Line {line} is not {encoding}. Save the file as “CSV UTF-8”, or name its encoding. "
            "Excel on Windows writes --encoding cp1252, or utf-16 for “Unicode text”."
        ) from error


def plan(text: str, *, update: bool = False) -> Plan:
    """
    Return what the import of a file does, and its mistakes. Nothing is written.

    Args:
        text: The text of the file. Its first line names the columns, separated by commas,
            semicolons or tabs.
        update: Whether existing partners may be changed. Otherwise a difference is a mistake.
    """
    return _Reader(update=update).read(text)


def carry_out(found: Plan) -> None:
    """
    Write what a plan without mistakes does, in one transaction.

    Raises:
        ChangedMeanwhile: If that is not possible any more. Then nothing is written.
    """
    alias = db.write_alias()
    partners = Partner.objects.using(alias)
    active = [partner for partner in found.changed if partner.active]
    inactive = [partner for partner in found.changed if not partner.active]
    try:
        with transaction.atomic(using=alias):
            partners.bulk_create(found.created, batch_size=_BATCH)
            # A partner who was stopped for fraud a moment ago must not become active again.
            for rows, among in ((active, partners.filter(stopped_on=None)), (inactive, partners)):
                if rows and _update(among, rows, found.changed_fields) != len(rows):
                    raise ChangedMeanwhile
            # MySQL returns no keys of many new rows.
            keys = _keys([code.partner.uid for code in found.codes])
            for code in found.codes:
                code.partner_id = keys[code.partner.uid]
            PartnerCode.objects.using(alias).bulk_create(found.codes, batch_size=_BATCH)
    except (IntegrityError, KeyError) as error:
        raise ChangedMeanwhile from error


def _update(among: PartnerQuerySet, partners: list[Partner], fields: Collection[str]) -> int:
    # A statement compares each row with each partner of its batch.
    return among.bulk_update(partners, sorted(fields), batch_size=_BATCH // 5)


def _keys(uids: Sequence[str]) -> dict[str, int]:
    partners = Partner.objects.using(db.write_alias())
    found: dict[str, int] = {}
    for start in range(0, len(uids), _BATCH):
        rows = partners.filter(uid__in=uids[start : start + _BATCH])
        found.update(rows.values_list("uid", "pk"))
    return found


@dataclass(frozen=True)
class _Line:
    number: int
    #: The values by column, without blanks around them.
    values: Mapping[str, str]
    #: The texts that name the partner: the uid, and the codes by their keys.
    uid: str
    codes: Mapping[str, str]
    active: bool | None


class _Refused(Exception):
    """A line has mistakes."""

    def __init__(self, *texts: str) -> None:
        super().__init__()
        self.texts = texts


class _Reader:
    """Compares the lines of a file with the existing partners, and with each other."""

    def __init__(self, *, update: bool) -> None:
        self.update = update
        self.plan = Plan()
        #: The line that has named a partner, by uid or code in lower case, or by name and e-mail.
        self.lines: dict[object, int] = {}
        #: The existing partners.
        self.by_key: dict[int, Partner] = {}
        self.by_uid: dict[str, Partner] = {}
        self.by_code: dict[str, Partner] = {}
        self.by_name: dict[tuple[str, str], Partner] = {}

    def read(self, text: str) -> Plan:
        rows = self._rows(text)
        columns = self._columns(*next(rows, (1, [])))
        if columns:
            self._read_partners()
            for number, cells in rows:
                try:
                    self._add(self._line(number, columns, cells))
                except _Refused as refused:
                    self._refuse(number, *refused.texts)
        self.plan.mistakes.sort(key=lambda mistake: mistake.line)
        return self.plan

    def _refuse(self, number: int, *texts: str) -> None:
        self.plan.mistakes += [Mistake(number, text) for text in texts]

    def _rows(self, text: str) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows that are not empty, each with the number of its first line."""
        first = next((line for line in StringIO(text, newline="") if line.strip()), "")
        delimiter = max(_DELIMITERS, key=first.count)
        reader = csv.reader(
            StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True
        )
        while True:
            number = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                text = (
                    f"This is not valid CSV ({error}). Check the quotation marks. The lines from "
                    "here on were not read."
                )
                self._refuse(number, text)
                return
            if any(cell.strip() for cell in cells):
                yield number, [cell.strip() for cell in cells]

    def _columns(self, number: int, cells: list[str]) -> list[str]:
        """Return the columns that the header names; none if it has mistakes."""
        while cells and not cells[-1]:  # Empty cells of a spreadsheet.
            cells.pop()
        columns = [cell.casefold() for cell in cells]
        expected = f"The columns are: {', '.join(COLUMNS)}."
        mistakes = []
        for position, (name, cell) in enumerate(zip(columns, cells, strict=True)):
            close = get_close_matches(name, COLUMNS, n=1)
            if name in columns[:position]:
                mistakes.append(f"The column {_quoted(cell)} is there twice.")
            elif name not in COLUMNS:
                meant = f"Did you mean “{close[0]}”?" if close else expected
                mistakes.append(f"The column {_quoted(cell)} is unknown. {meant}")
        if "name" not in columns:
            mistakes.append(
                f"The first line must name the columns, and “name” among them. {expected}"
            )
        self._refuse(number, *mistakes)
        return [] if mistakes else columns

    def _read_partners(self) -> None:
        alias = db.write_alias()
        for partner in Partner.objects.using(alias).only(*_READ).order_by("pk"):
            self.by_key[partner.pk] = partner
            self.by_uid[partner.uid.lower()] = partner
            self.by_name.setdefault((partner.name, partner.email), partner)
        codes = PartnerCode.objects.using(alias).values_list("code", "partner")
        self.by_code = {code.lower(): self.by_key[key] for code, key in codes}

    def _line(self, number: int, columns: list[str], cells: list[str]) -> _Line:
        """Read a line; raise ``_Refused`` with all mistakes that it has by itself."""
        if len(cells) < len(columns) or any(cells[len(columns) :]):
            raise _Refused(
                f"The line has {len(cells)} cells, but the first line has {len(columns)}."
            )
        values = dict(zip(columns, cells, strict=False))
        mistakes = [
            f"The {column} has a line break or another control character."
            for column, value in values.items()
            if _CONTROLS.search(value)
        ]
        mistakes += [
            f"The {column} has characters that the database cannot store."
            for column, value in values.items()
            if not db.can_store(value)
        ]
        if not values["name"]:
            mistakes.append("The name is missing.")
        flag = values.get("active", "")
        active = _FLAGS.get(flag.casefold())
        if flag and active is None:
            mistakes.append(f"active is {_quoted(flag)}, but must be yes or no.")
        uid = values.get("uid", "")
        codes = [values.get("code", "")]
        if not _UID.fullmatch(uid):  # An id of another system.
            codes, uid = [uid, *codes], ""
        for code in filter(None, codes):
            try:
                PartnerCode(code=code).clean_fields(exclude=["partner"])
            except ValidationError as error:
                mistakes.append(f"{_quoted(code)} cannot be a code. {' '.join(error.messages)}")
        if mistakes:
            raise _Refused(*mistakes)
        by_key = {code.lower(): code for code in codes if code}
        return _Line(number, values, uid, by_key, active)

    def _add(self, line: _Line) -> None:
        """Add what a line does; raise ``_Refused`` with its mistakes."""
        self._compare_with_lines(line)
        partner = self._partner(line)
        is_new = partner.pk is None
        changes = self._changes(line, partner)
        codes = [
            PartnerCode(partner=partner, code=code)
            for key, code in line.codes.items()
            if key != partner.uid.lower() and key not in self.by_code
        ]
        if not is_new and not changes and not codes:
            self.plan.unchanged_count += 1
            return
        if not is_new and not self.update:
            named = [*changes, *(["code"] if codes else [])]
            raise _Refused(
                f"{_named(partner)} exists already, with another {' and '.join(named)}. Use "
                "--update to change existing partners."
            )
        for name, value in changes.items():
            setattr(partner, name, value)
        _validate(partner, [*changes, "name"])
        if is_new:
            self.plan.created.append(partner)
        elif changes:
            self.plan.changed.append(partner)
            self.plan.changed_fields |= changes.keys()
        self.plan.codes += codes

    def _compare_with_lines(self, line: _Line) -> None:
        """Refuse a line whose partner is in an earlier one."""
        texts: list[object] = [*filter(None, [line.uid.lower()]), *line.codes]
        if not texts:
            texts = [(line.values["name"].casefold(), line.values.get("email", "").casefold())]
        for text in texts:
            earlier = self.lines.setdefault(text, line.number)
            if earlier != line.number:
                shown = "The partner" if isinstance(text, tuple) else _quoted(str(text))
                raise _Refused(f"{shown} is already in line {earlier}.")

    def _partner(self, line: _Line) -> Partner:
        """Return the partner that a line names, or a new one; refuse a line that names two."""
        found = self.by_uid.get(line.uid.lower())
        if found is not None and found.uid != line.uid:
            raise _Refused(
                f"{_quoted(line.uid)} differs only in upper and lower case from the uid of "
                f"{_named(found)}."
            )
        if (owner := self.by_code.get(line.uid.lower())) is not None:
            raise _Refused(f"{_quoted(line.uid)} is a code of {_named(owner)}.")
        for key, code in line.codes.items():
            if (other := self.by_uid.get(key)) is not None and other is not found:
                raise _Refused(f"{_quoted(code)} is the uid of {_named(other)}.")
            owner = self.by_code.get(key)
            if owner is not None and (line.uid or found is not None) and owner is not found:
                raise _Refused(f"{_quoted(code)} is a code of {_named(owner)}.")
            found = owner or found
        if found is None and not line.uid and not line.codes:
            found = self.by_name.get((line.values["name"], line.values.get("email", "")))
        if found is None:
            return Partner(uid=line.uid or self._new_uid())
        if self.lines.setdefault(found.pk, line.number) != line.number:
            raise _Refused(f"{_named(found)} is already in line {self.lines[found.pk]}.")
        return found

    def _new_uid(self) -> str:
        uid = new_uid()
        while uid in self.by_uid or uid in self.by_code or uid in self.lines:
            uid = new_uid()
        return uid

    def _changes(self, line: _Line, partner: Partner) -> dict[str, Any]:
        """Return the new values by field. An empty cell leaves a field as it is."""
        stated = {name: line.values.get(name) or None for name in ("name", "email", "group")}
        return {
            name: value
            for name, value in {**stated, "active": line.active}.items()
            if value is not None and value != getattr(partner, name)
        }


def _validate(partner: Partner, fields: Sequence[str]) -> None:
    """Validate a partner as the Admin does; the uniqueness of uids is known already."""
    others = {field.name for field in Partner._meta.concrete_fields}.difference(fields)
    mistakes: list[str] = []
    for check in (partial(partner.clean_fields, others), partner.clean):
        try:
            check()
        except ValidationError as error:
            if hasattr(error, "error_dict"):
                mistakes += [
                    f"{name}: {' '.join(messages)}" for name, messages in error.message_dict.items()
                ]
            else:
                mistakes += error.messages
    if mistakes:
        raise _Refused(*mistakes)


def _quoted(text: str) -> str:
    shown = _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text[:_QUOTED])
    return f"“{shown}…”" if len(text) > _QUOTED else f"“{shown}”"


def _named(partner: Partner) -> str:
    return f"Partner {_quoted(partner.name)} ({partner.uid})"
