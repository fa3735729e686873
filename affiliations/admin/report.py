"""The report: clicks, conversions and payouts over time and by partner, trigger or sub id."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.forms import Media
from django.http import HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.formats import number_format
from django.utils.text import capfirst
from django.utils.translation import gettext
from django.views.decorators.http import require_safe

from affiliations.admin.base import ReadOnlyMixin
from affiliations.admin.filtered_clicks import arrival_rows
from affiliations.admin.pages import STYLES
from affiliations.admin.report_form import ReportForm
from affiliations.admin.tables import (
    Table,
    partners_by_key,
    query_string,
    row_name,
    row_query,
    sort,
)
from affiliations.dates import PRESETS
from affiliations.models import Report
from affiliations.reports import charts, columns, export
from affiliations.reports.numbers import Dimension, Others, ReportResult
from affiliations.reports.queries import (
    LIMIT,
    ReportQuery,
    report,
)

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase

#: The maximum of partners, triggers or sub ids with rows of their own, on the page and in a file.
GROUPS, GROUPS_IN_FILE = 100, LIMIT
#: The maximum of partners in the table of arrivals.
ARRIVALS = 25


@admin.register(Report)
class ReportAdmin(ReadOnlyMixin, admin.ModelAdmin):
    """The page of the report, instead of the list of a model."""

    def get_urls(self) -> list[Any]:
        site, name = self.admin_site, f"{self.opts.app_label}_{self.opts.model_name}"
        return [
            path("", site.admin_view(require_safe(self.report_view)), name=f"{name}_changelist"),
            path("csv/", site.admin_view(require_safe(self.csv_view)), name=f"{name}_csv"),
        ]

    def report_view(self, request: HttpRequest) -> HttpResponse:
        form = self._form(request)
        presets = [
            (label, query_string(request, period=name, since=None, until=None), form.preset == name)
            for name, label in PRESETS.items()
        ]
        context = self.admin_site.each_context(request) | {
            "opts": self.opts,
            "title": gettext("Report"),
            # Without the scripts of the Admin's other pages.
            "media": Media(css={"all": [*STYLES, "affiliations/charts.css"]}),
            "form": form,
            "presets": presets,
        }
        if form.is_valid():
            context |= self._results(request, form)
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "admin/affiliations/report.html", context)

    def csv_view(self, request: HttpRequest) -> HttpResponseBase:
        """Return a table of the page, or the rows by interval and dimension, as a CSV file."""
        form = self._form(request)
        if not form.is_valid():
            # The page shows the errors.
            return HttpResponseRedirect(f"../{query_string(request)}")
        query, rows = form.query, request.GET.get("rows")
        if rows in ("arrivals", "arrivals-by-partner"):
            is_by_partner = rows == "arrivals-by-partner"
            by = Dimension.PARTNER.label if is_by_partner else ""
            name = self._file_name(form, gettext("Arrived clicks").lower(), by)
            lines = self._arrivals_by_partner(form) if is_by_partner else self._arrivals(form)
        else:
            if rows == "groups":
                query["interval"] = None
            elif rows == "time":
                query["dimension"] = None
            lines = self._lines(query)
            dimension = query["dimension"]
            name = self._file_name(form, gettext("report"), dimension.label if dimension else "")
        # A generator, so that the first query is made while the file is sent.
        header = (cell for line in islice(lines, 1) for cell in line)
        return export.as_csv(request, name, header, lines)

    def _file_name(self, form: ReportForm, *parts: object) -> str:
        partner, period = form.cleaned_data["partner"], form.query["period"]
        uid = partner.uid if partner else ""
        return export.file_name(*parts, uid, period.first, period.last)

    def _lines(self, query: dict[str, Any]) -> Iterator[list[Any]]:
        """Yield the header and the rows of a report as a CSV file."""
        interval, dimension = query["interval"], query["dimension"]
        whole = report(**query | {"interval": None, "dimension": None})
        table = columns.report_columns(whole.total)
        keys = [capfirst(str(key.label)) for key in (interval, dimension) if key]
        yield [*keys, *columns.header(table)]
        limited = ReportQuery(**query).limited(GROUPS_IN_FILE)
        partners = partners_by_key(dimension, limited.groups)
        for (start, key), numbers in limited.rows():
            yield [
                *([start] if interval else []),
                *([row_name(dimension, key, partners)] if dimension else []),
                *columns.values(table, numbers),
            ]

    def _form(self, request: HttpRequest) -> ReportForm:
        if not self.has_view_permission(request):
            raise PermissionDenied
        return ReportForm(request.GET)

    def _results(self, request: HttpRequest, form: ReportForm) -> dict[str, Any]:
        query, interval = form.query, form.query["interval"]
        result = report(**query | {"dimension": None})
        shown = columns.report_columns(result.total)
        header, rows = sort(
            request,
            "time",
            [capfirst(str(interval.label)), *columns.header(shown)],
            [
                (
                    (columns.interval_label(interval, start), "", columns.texts(shown, numbers)),
                    [start, *columns.values(shown, numbers)],
                )
                for (start, _key), numbers in result.rows.items()
                if start
            ],
        )
        tables = [
            self._table(
                request,
                name="time",
                heading=gettext("Over time"),
                header=header,
                rows=rows,
                total=columns.texts(shown, result.total),
            ),
            *self._arrivals_tables(request, form),
        ]
        if dimension := query["dimension"]:
            groups = report(**query | {"interval": None}, limit=GROUPS)
            table = self._groups(request, dimension, groups)
            label = gettext("Download by %(step)s and %(by)s as CSV")
            names = {"step": interval.label, "by": dimension.label}
            table.files.append((self._csv_url(request, None), label % names))
            tables.insert(0, table)
        before = None
        if form.cleaned_data["compare"]:
            earlier = {"period": query["period"].before, "interval": None, "dimension": None}
            before = report(**query | earlier).total
        return {
            "period": query["period"],
            "before": query["period"].before if before else None,
            "partner": form.cleaned_data["partner"],
            "totals": columns.totals(result.total, before),
            "charts": charts.over_time(interval, result),
            "tables": tables,
        }

    def _groups(self, request: HttpRequest, dimension: Dimension, result: ReportResult) -> Table:
        """Return the table with a row for each partner, trigger or sub id."""
        shown = columns.report_columns(result.total)
        partners = partners_by_key(dimension, [key for _start, key in result.rows])
        help_texts = []
        if dimension is Dimension.TRIGGER:
            text = gettext("Clicks cannot be split by trigger; every row shows all clicks.")
            help_texts.append(text)
        if any(isinstance(key, Others) for _start, key in result.rows):
            text = gettext("Only the %(shown)s with the most clicks have rows of their own.")
            help_texts.append(text % {"shown": number_format(len(result.rows) - 1)})
        header, rows = sort(
            request,
            "groups",
            [capfirst(str(dimension.label)), *columns.header(shown)],
            [
                (
                    (name, row_query(request, dimension, key, partners), columns.texts(shown, row)),
                    [] if isinstance(key, Others) else [name, *columns.values(shown, row)],
                )
                for (_start, key), row in result.rows.items()
                for name in [row_name(dimension, key, partners)]
            ],
        )
        return self._table(
            request,
            name="groups",
            heading=gettext("By %(what)s") % {"what": dimension.label},
            header=header,
            rows=rows,
            total=columns.texts(shown, result.total),
            help_text=" ".join(help_texts),
        )

    def _arrivals(self, form: ReportForm) -> Iterator[list[Any]]:
        """Yield the header and the rows of the arrivals as a CSV file."""
        yield columns.ARRIVALS_HEADER
        for column in columns.arrival_columns(form.arrivals.reasons):
            yield [column.label, column.value(form.arrivals)]

    def _arrivals_by_partner(self, form: ReportForm) -> Iterator[list[Any]]:
        by = Dimension.PARTNER
        shown = columns.arrival_columns(form.arrivals.reasons)
        yield [capfirst(str(by.label)), *columns.header(shown)]
        partners = partners_by_key(by, form.arrivals_by_partner)
        for key, row in form.arrivals_by_partner.items():
            yield [row_name(by, key, partners), *columns.values(shown, row)]

    def _arrivals_tables(self, request: HttpRequest, form: ReportForm) -> list[Table]:
        period, partner = form.query["period"], form.cleaned_data["partner"]
        filters = {"since": period.first, "until": period.last}
        if partner is not None:
            filters["partner"] = partner.uid
        help_text = gettext("Arrived clicks are the counted and the filtered ones.")
        if any(form.cleaned_data[name] for name in ("group", "trigger", "sub")):
            help_text += " " + gettext("They include all groups, triggers and sub ids.")
        table = self._table(
            request,
            name="arrivals",
            heading=gettext("Arrived clicks"),
            header=[str(label) for label in columns.ARRIVALS_HEADER],
            rows=arrival_rows(self.admin_site, request, form.arrivals, **filters),
            help_text=help_text,
        )
        if not form.is_by_partner:
            return [table]
        return [table, self._arrivals_by_partner_table(request, form)]

    def _arrivals_by_partner_table(self, request: HttpRequest, form: ReportForm) -> Table:
        by, found = Dimension.PARTNER, form.arrivals_by_partner
        shown = columns.arrival_columns(form.arrivals.reasons)
        keys = list(found)[:ARRIVALS]
        partners = partners_by_key(by, keys)
        rows = [
            (
                row_name(by, key, partners),
                row_query(request, by, key, partners),
                columns.texts(shown, found[key]),
            )
            for key in keys
        ]
        help_text = ""
        if len(found) > len(keys):
            help_text = gettext(
                "The %(shown)s partners with the most arrived clicks. The CSV file has all."
            ) % {"shown": number_format(len(keys))}
        return self._table(
            request,
            name="arrivals-by-partner",
            heading=gettext("Arrived clicks by partner"),
            header=[capfirst(str(by.label)), *columns.header(shown)],
            rows=rows,
            total=columns.texts(shown, form.arrivals),
            help_text=help_text,
        )

    def _table(self, request: HttpRequest, *, name: str, heading: str, **parts: Any) -> Table:
        label = gettext("Download “%(heading)s” as CSV") % {"heading": heading}
        files = [(self._csv_url(request, name), label)]
        return Table(name=name, heading=heading, files=files, **parts)

    def _csv_url(self, request: HttpRequest, rows: str | None) -> str:
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_csv"
        url = reverse(name, current_app=self.admin_site.name)
        return url + query_string(request, rows=rows)
