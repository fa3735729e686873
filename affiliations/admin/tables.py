"""The tables of numbers on pages of the Admin, and the names of the report's rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.utils.text import capfirst
from django.utils.translation import gettext, pgettext

from affiliations.exceptions import Reason
from affiliations.models import Partner, Visitor
from affiliations.reports.numbers import Dimension, Others

if TYPE_CHECKING:
    from django.http import HttpRequest


def query_string(request: HttpRequest, **changes: str | None) -> str:
    values = request.GET.copy()
    for name, value in changes.items():
        values.pop(name, None)
        if value is not None:
            values[name] = value
    return f"?{values.urlencode()}"


@dataclass(frozen=True)
class Heading:
    """The heading of a column by which a table can be sorted."""

    label: str
    url: str
    #: The value of ``aria-sort``; empty if the table is not sorted by it.
    direction: str = ""

    def __str__(self) -> str:
        return self.label


def sort(
    request: HttpRequest, name: str, header: Sequence[str], rows: list[tuple[Any, Sequence[Any]]]
) -> tuple[list[Heading], list[Any]]:
    """
    Sort a table by the column that the query string names, such as ``sort=groups.-2``.

    Args:
        request: The request.
        name: The name of the table.
        header: The headings.
        rows: Each row, and its values by which to sort. A row without values stays the last.

    Returns:
        The headings, with links, and the sorted rows. A number is sorted from the highest first.
    """
    asked = request.GET.get("sort", "")
    headings = []
    for number, label in enumerate(header):
        up, down = f"{name}.{number}", f"{name}.-{number}"
        first, second = (up, down) if number == 0 else (down, up)
        direction = {up: "ascending", down: "descending"}.get(asked, "")
        url = query_string(request, sort=second if asked == first else first)
        headings.append(Heading(label, f"{url}#aff-table-{name}", direction))
        if direction:
            last = [pair for pair in rows if not pair[1]]
            rows = sorted(
                (pair for pair in rows if pair[1]),
                key=lambda pair, number=number: _sort_key(pair[1][number]),  # type: ignore[misc]
                reverse=asked == down,
            )
            rows += last
    return headings, [row for row, _values in rows]


def _sort_key(value: Any) -> tuple[bool, Any]:
    """Sort missing values below all others."""
    return value is not None, value or 0 if not isinstance(value, str) else value.casefold()


@dataclass(frozen=True)
class Table:
    name: str
    heading: str
    header: Sequence[str | Heading]
    #: The name of each row, the URL of a page about it, and the cells.
    rows: list[tuple[str, str, list[str]]]
    #: The URLs and labels of the CSV files.
    files: list[tuple[str, str]] = field(default_factory=list)
    total: list[str] | None = None
    help_text: str = ""
    are_numbers: bool = True


def partners_by_key(dimension: Dimension | None, keys: Collection[Any]) -> dict[Any, Partner]:
    if dimension is not Dimension.PARTNER:
        return {}
    keys = [key for key in keys if isinstance(key, int)]
    return Partner.objects.only("name", "uid").in_bulk(keys)


def row_name(dimension: Dimension, key: Any, partners: dict[Any, Partner]) -> str:
    if key in partners:
        return partners[key].name
    if isinstance(key, Others):
        return str(key)
    if dimension is Dimension.PARTNER and key is None:
        return capfirst(str(Reason.UNKNOWN_PARTNER.label))
    if dimension is Dimension.PARTNER:
        return gettext("deleted partner (%(number)s)") % {"number": key}
    if dimension is Dimension.SOURCE and key in Visitor.Source.values:
        return str(Visitor.Source(key).label)
    if key is None:
        return pgettext("sub id", "(less frequent)")
    return str(key) or pgettext("sub id", "(none)")


def row_query(
    request: HttpRequest, dimension: Dimension, key: Any, partners: dict[Any, Partner]
) -> str:
    """Return the query string of the same report about one row only."""
    if isinstance(key, Others):
        return ""
    if dimension is Dimension.PARTNER and key in partners:
        uid = partners[key].uid
        return query_string(request, partner=uid, dimension=Dimension.TRIGGER.value)
    if dimension in (Dimension.PARTNER, Dimension.SOURCE) or not key:
        return ""
    own = {"sub": dimension, "label": key} if dimension.is_sub_id else {dimension.value: key}
    return query_string(request, dimension=Dimension.PARTNER.value, **own)
