"""The numbers of a report as staff read them: tables, charts and the rows of a file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.utils.formats import number_format
from django.utils.text import capfirst
from django.utils.translation import gettext, pgettext

from affiliations import charts
from affiliations.admin.questions import query
from affiliations.figures import cells, header, values
from affiliations.models import Partner
from affiliations.periods import Step
from affiliations.reports import By, Report

if TYPE_CHECKING:
    from django.http import HttpRequest

#: So many columns come before those of the first currency.
_COUNTS = 5


@dataclass(frozen=True)
class Row:
    """What a row is about, a report about nothing else, and the cells."""

    name: str
    query: str
    cells: list[str]


@dataclass(frozen=True)
class Table:
    """A table of which a template has only to write what is there."""

    name: str
    heading: str
    header: list[str]
    rows: list[Row]
    total: list[str]
    #: Where the same numbers are as a file, and what the link is called.
    files: list[tuple[str, str]]
    help_text: str = ""


def over_time(step: Step, found: Report, csv_url: str) -> Table:
    """Return the table of each day, week or month."""
    heading = gettext("Over time")
    rows = [
        Row(charts.when(step, start), "", cells(numbers, found.currencies))
        for (start, _key), numbers in found.rows.items()
        if start
    ]
    return Table(
        name="time",
        heading=heading,
        header=[capfirst(str(step.label)), *header(found.currencies)],
        rows=rows,
        total=cells(found.total, found.currencies),
        files=[_file(heading, csv_url)],
    )


def by_group(request: HttpRequest, by: By, found: Report, csv_url: str) -> Table:
    """Return the table of each partner, trigger or label, each leading to a report about it."""
    heading = gettext("By %(what)s") % {"what": by.label}
    shown = [(key, numbers) for (_start, key), numbers in found.rows.items()]
    names = _Names(by, [key for key, _numbers in shown])
    help_texts = []
    if by is By.TRIGGER:
        help_texts.append(gettext("Nobody clicks on a trigger: the clicks of each are all clicks."))
    if found.count > len(shown):
        help_texts.append(
            gettext(
                "These are the %(shown)s with most clicks, of %(all)s. The total is that of all, "
                "and a CSV file has them."
            )
            % {"shown": number_format(len(shown)), "all": number_format(found.count)}
        )
    return Table(
        name="groups",
        heading=heading,
        header=[capfirst(str(by.label)), *header(found.currencies)],
        rows=[
            Row(names.name(key), names.query(request, key), cells(numbers, found.currencies))
            for key, numbers in shown
        ],
        total=cells(found.total, found.currencies),
        files=[_file(heading, csv_url)],
        help_text=" ".join(help_texts),
    )


def sums(found: Report) -> list[list[tuple[str, str]]]:
    """Return the figures of it all, each with its name: what is counted, then each currency."""
    named = list(zip(header(found.currencies), cells(found.total, found.currencies), strict=True))
    earned = named[_COUNTS:]
    return [named[:_COUNTS], *(list(pair) for pair in zip(earned[::2], earned[1::2], strict=True))]


def file_header(step: Step | None, by: By | None, currencies: list[str]) -> list[str]:
    """Return the heading of each column of a file."""
    first = [capfirst(str(what.label)) for what in (step, by) if what]
    return [*first, *header(currencies)]


def file_rows(step: Step | None, by: By | None, found: Report) -> Iterator[list[Any]]:
    """Yield the rows of a file: a day, week or month is the day that it begins with."""
    names = _Names(by)
    for (start, key), numbers in found.rows.items():
        first = [*([start] if step else []), *([names.name(key)] if by else [])]
        yield [*first, *values(numbers, found.currencies)]


def _file(heading: str, url: str) -> tuple[str, str]:
    return url, gettext("“%(heading)s” as CSV") % {"heading": heading}


class _Names:
    """What partners, triggers and labels are called."""

    def __init__(self, by: By | None, keys: Collection[Any] | None = None) -> None:
        """Look the partners up: all of them, or those with these keys."""
        self.by = by
        self.partners: dict[Any, tuple[str, str]] = {}
        if by is By.PARTNER:
            partners = Partner.objects.order_by()
            partners = partners if keys is None else partners.filter(pk__in=keys)
            found = partners.values_list("pk", "name", "uid")
            self.partners = {pk: (name, uid) for pk, name, uid in found}

    def _partner(self, key: Any) -> tuple[str, str]:
        # Deleted since the numbers were found: to be seen, and no reason to fail.
        return self.partners.get(key, (str(key), str(key)))

    def name(self, key: Any) -> str:
        if self.by is By.PARTNER:
            return self._partner(key)[0]
        return key or pgettext("sub id", "(none)")

    def query(self, request: HttpRequest, key: Any) -> str:
        """Return the query of the same report about this one alone."""
        if self.by is By.PARTNER:
            return query(request, partner=self._partner(key)[1], by=By.TRIGGER.value)
        if self.by is By.TRIGGER:
            return query(request, trigger=key, by=By.PARTNER.value)
        return query(request, sub=self.by, label=key, by=By.PARTNER.value) if key else ""
