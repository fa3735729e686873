"""The list of partners with the numbers of a period, sorted by any of them, and its CSV file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import F, OrderBy, Value, Window
from django.db.models.functions import DenseRank
from django.utils.formats import date_format, number_format
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.text import capfirst
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from affiliations.admin.base import (
    CSVListAdmin,
    OfferedChangeList,
    badge,
    may_view,
    short,
    two_lines,
)
from affiliations.admin.filters import GroupFilter, PeriodFilter, report_parameters
from affiliations.admin.pages import ObjectViewsMixin
from affiliations.admin.partner_record import may_see_payment_details
from affiliations.dates import in_active_zone
from affiliations.models import Partner, Report
from affiliations.reports import columns, queries
from affiliations.reports.numbers import Dimension, Numbers

if TYPE_CHECKING:
    from django.contrib.admin.views.main import ChangeList
    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse

    from affiliations.reports.columns import Column

#: Columns of the report that would make the list too wide; its CSV file has them.
_UNLISTED = {"pending", "rejected", "average_order", "pending_payout"}
#: The fields of a partner in the CSV file.
_RECORDED = ("name", "uid", "group", "active", "email", "notify", "minimum_payout",
             "minimum_payout_currency")  # fmt: skip
_NOTHING = Numbers()


class ByNumber(Value):
    """Stands in the ordering of the list for a number that the database cannot sort by."""


def _numbers_column(column: Column) -> Callable[[Any], str]:
    label: Any = column.label

    @admin.display(description=label, ordering=ByNumber(column.name))
    def show(partner: Any) -> str:
        return columns.in_all_currencies(column, partner.numbers)

    show.__name__ = column.name
    return show


class PartnerChangeList(OfferedChangeList):
    """A list of partners with their numbers, by which it is sorted in Python."""

    def get_ordering(self, request: HttpRequest, queryset: QuerySet) -> list[Any]:
        """Return the ordering for the database, without the numbers."""
        self.full_ordering = super().get_ordering(request, queryset)
        return [order for order in self.full_ordering if isinstance(order, str)]

    def get_results(self, request: HttpRequest) -> None:
        """Read the numbers of all partners of the list, for the total, in a few queries."""
        super().get_results(request)
        partners = self.queryset.order_by()
        report = queries.report(
            self.period_filter.period, dimension=Dimension.PARTNER, partners=partners, limit=None
        )
        self.numbers = {key: numbers for (_start, key), numbers in report.rows.items()}
        self.total = report.total
        if self.sorted_by:
            keys = self.sorted_keys()
            if not (self.show_all and self.can_show_all):
                first = (self.page_num - 1) * self.list_per_page
                keys = keys[first : first + self.list_per_page]
            found = partners.in_bulk(keys)
            self.result_list = [found[key] for key in keys if key in found]
        last_clicks = queries.last_clicks(partner.pk for partner in self.result_list)
        for partner in self.result_list:
            partner.numbers = self.numbers_of(partner.pk)
            partner.last_click = last_clicks.get(partner.pk)

    def numbers_of(self, key: int) -> Numbers:
        return self.numbers.get(key, _NOTHING)

    @property
    def period_filter(self) -> PeriodFilter:
        (found,) = (spec for spec in self.filter_specs if isinstance(spec, PeriodFilter))
        return found

    @cached_property
    def sorted_by(self) -> list[str]:
        """The names of the numbers by which the list is sorted."""
        return [order.expression.value for order in self.full_ordering if _is_by_number(order)]

    @property
    def sorting_currency(self) -> str:
        """The currency of the amounts by which the list is sorted; empty if there is only one."""
        sorting = (one for one in columns.REPORT_COLUMNS if one.name in self.sorted_by)
        for column in sorting:
            if column.currencies and len(column.currencies(self.total)) > 1:
                return self._currency_of(column)
        return ""

    def sorted_keys(self) -> list[int]:
        """Return the primary keys of all partners of the list."""
        by_field = {
            f"rank{number}": Window(
                DenseRank(),
                order_by=OrderBy(F(order.removeprefix("-")), descending=order[0] == "-"),
            )
            for number, order in enumerate(self.full_ordering)
            if isinstance(order, str)
        }
        rows = list(self.queryset.order_by().annotate(**by_field).values("pk", *by_field))
        # By the last column first, since the sort is stable.
        for number, order in reversed(list(enumerate(self.full_ordering))):
            if _is_by_number(order):
                value_of = self._value_of(order.expression.value)
                rows.sort(key=partial(_sort_key, value_of), reverse=order.descending)
            else:
                rows.sort(key=itemgetter(f"rank{number}"))
        return [row["pk"] for row in rows]

    def _value_of(self, name: str) -> Callable[[int], Any]:
        if name == "last_click":
            return queries.last_clicks(self.queryset.order_by().values("pk")).get
        (column,) = (one for one in columns.REPORT_COLUMNS if one.name == name)
        if column.currencies:
            column = column.in_currency(self._currency_of(column))
        return lambda key: column.value(self.numbers_of(key))

    def _currency_of(self, column: Column) -> str:
        """Return the currency in which the most partners have amounts of this kind."""
        used = Counter(
            currency
            for numbers in self.numbers.values()
            for currency in column.currencies(numbers)  # type: ignore[misc] # not None, see _value_of()
            if column.in_currency(currency).value(numbers)
        )
        return min(used, key=lambda currency: (-used[currency], currency), default="")

    @property
    def total_row(self) -> list[tuple[str, str]]:
        """The name and the text of each cell of the last row."""
        label = ngettext("Total: %(count)s partner", "Total: %(count)s partners", self.result_count)
        texts = {
            column.name: columns.in_all_currencies(column, self.total)
            for column in columns.REPORT_COLUMNS
        } | {"name_start": label % {"count": number_format(self.result_count)}}
        names = [str(getattr(one, "__name__", one)) for one in self.list_display]
        return [(name, texts.get(name, "")) for name in names]

    @property
    def report_query(self) -> str:
        """The query string of the report of the same period and group."""
        group = self.params.get(GroupFilter.parameter_name, "")
        return f"?{urlencode(report_parameters(self.period_filter.values) | {'group': group})}"


def _is_by_number(order: Any) -> bool:
    return isinstance(order, OrderBy) and isinstance(order.expression, ByNumber)


def _sort_key(value_of: Callable[[int], Any], row: dict[str, Any]) -> tuple[bool, Any]:
    """Sort partners without a value, such as a rate, below all others."""
    value = value_of(row["pk"])
    return value is not None, value or 0


class PartnerList(ObjectViewsMixin, CSVListAdmin):
    list_display = [
        "name_start",
        "active",
        "last_click",
        *(_numbers_column(one) for one in columns.REPORT_COLUMNS if one.name not in _UNLISTED),
    ]
    list_filter = ["active", GroupFilter, PeriodFilter]
    search_fields = ["name", "uid", "email", "codes__code"]
    search_help_text = _("Part of the name, of the e-mail or of a code, or the uid.")
    ordering = ["name"]
    list_per_page = 50

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return PartnerChangeList

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        is_linked = may_view(request, Report) and self.admin_site.is_registered(Report)
        report = self.list_url(Report) if is_linked else ""
        return super().changelist_view(request, {"report_url": report} | (extra_context or {}))

    @admin.display(description=_("name"), ordering="name")
    def name_start(self, partner: Partner) -> str:
        below = f"{partner.uid} · {short(partner.group)}" if partner.group else partner.uid
        name = two_lines(short(partner), below)
        if not partner.is_stopped:
            return name
        return format_html("{} {}", name, badge("rejected", gettext("stopped for fraud")))

    @admin.display(description=_("last click"), ordering=ByNumber("last_click"))
    def last_click(self, partner: Any) -> str | None:
        last = in_active_zone(partner.last_click)
        return last and date_format(last, "SHORT_DATE_FORMAT")

    def csv_table(
        self, request: HttpRequest, changelist: Any
    ) -> tuple[list[str], Iterator[list[Any]]]:
        """Return the headings and the rows of the CSV file: the partners and their numbers."""
        table = columns.report_columns(changelist.total)
        recorded = [*_RECORDED, *(["payment_details"] if may_see_payment_details(request) else [])]
        fields: list[Any] = [self.opts.get_field(name) for name in recorded]
        names = [field.name for field in fields]
        headings = [capfirst(str(field.verbose_name)) for field in fields]
        header = [*headings, gettext("Last click"), *columns.header(table)]
        return header, self._lines(changelist, names, table)

    def _lines(
        self, changelist: PartnerChangeList, names: list[str], table: list[Column]
    ) -> Iterator[list[Any]]:
        last_clicks = queries.last_clicks(changelist.queryset.order_by().values("pk"))
        rows = changelist.queryset.order_by().values("pk", *names)
        found = {row.pop("pk"): row for row in rows}
        for key in changelist.sorted_keys():
            # A partner may have been added or deleted in the meantime.
            if key in found and key in last_clicks:
                facts, numbers = found[key].values(), changelist.numbers_of(key)
                yield [*facts, last_clicks[key], *columns.values(table, numbers)]
