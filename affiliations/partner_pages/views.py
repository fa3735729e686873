"""
The partner pages, behind a private link: statistics, conversions and payout statements.

They are read-only, and never cached, indexed or sent to another site as a referrer. They do not
read the session, so a wrong link costs one query at most. Their URLs are relative, so that a saved
or printed page does not contain the private link. A partner can download one CSV file at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import wraps
from itertools import islice
from typing import TYPE_CHECKING, Any

from django.contrib.auth.decorators import login_not_required
from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import Http404, HttpResponse, HttpResponseNotFound
from django.shortcuts import render
from django.template.loader import render_to_string
from django.urls import get_script_prefix
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from django.utils.http import urlencode
from django.utils.text import capfirst
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_safe

from affiliations.callbacks import suspension
from affiliations.conf import settings
from affiliations.conversions import statement_lines, unpaid
from affiliations.dates import Interval, Period
from affiliations.link_forms import FullLinkForm
from affiliations.models import Conversion, Partner, Settlement
from affiliations.models.conversion_queries import ConversionQuerySet
from affiliations.partner_pages import deliveries, downloads, serializers
from affiliations.reports import charts, columns, export, queries

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from affiliations.reports.numbers import ReportResult

#: The periods to choose from: the label, and the number and length of the rows. The keys, which the
#: query string uses, are roughly the number of days.
PERIODS = {
    7: (_("7 days"), 7, Interval.DAY),
    30: (_("30 days"), 30, Interval.DAY),
    90: (_("13 weeks"), 13, Interval.WEEK),
    365: (_("12 months"), 12, Interval.MONTH),
}
DEFAULT_PERIOD = 30
CONVERSIONS_PER_PAGE = 25
SETTLEMENTS_PER_PAGE = 12
#: The number of lines of a statement on its page; the CSV file has all.
LINES = 500
#: Seconds after which a program may try again to download a CSV file.
RETRY_AFTER = 10
#: Columns of a statement whose values the page shows in the cells of other columns.
_INSIDE_OTHERS = {"trigger", "reference", "currency", "payout_currency", "reason"}


def private(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """
    Pass the partner of a private link to a view.

    The response to a wrong link is always the same, whether the link was revoked, never existed, or
    leads to another partner's statement. It is rendered without the host's context processors.
    Times are in the site's time zone, as the days of a report are, whatever zone is activated.

    The link is the credential. A redirect to the login would put it into the login's URL.
    """

    @login_not_required
    @require_safe
    @wraps(view)
    def wrapper(request: HttpRequest, uid: str, token: str, **kwargs: str) -> HttpResponseBase:
        partner = Partner.objects.by_page_link(uid, token)
        try:
            if partner is None:
                raise Http404
            with timezone.override(timezone.get_default_timezone()):
                response = view(request, partner, **kwargs)
        except Http404:
            response = HttpResponseNotFound(render_to_string("affiliations/partner/not_found.html"))
        add_never_cache_headers(response)
        # The private link must not get into an index, or to a site that the page links to.
        response["X-Robots-Tag"] = "noindex, nofollow"
        response["Referrer-Policy"] = "no-referrer"
        return response

    return wrapper


@private
def page(request: HttpRequest, partner: Partner) -> HttpResponseBase:
    days = _days(request)
    period, interval = _period(days), PERIODS[days][-1]
    numbers = serializers.numbers(partner, period, interval)
    arrivals = queries.arrivals(period, partner, counted=numbers.total.clicks)
    conversions = _Listing(
        request,
        "page",
        serializers.with_related(_conversions(partner, period)),
        CONVERSIONS_PER_PAGE,
    )
    statements = _Listing(
        request, "settlements", partner.settlements.order_by("-pk"), SETTLEMENTS_PER_PAGE
    )
    endpoints, callbacks = deliveries.endpoints(partner), deliveries.latest(partner)
    link_form = FullLinkForm(request, request.GET, prefix="link")
    context = {
        "partner": partner,
        "link": partner.link(request.build_absolute_uri(get_script_prefix())),
        "link_form": link_form,
        "built_link": link_form.is_sent and link_form.is_valid() and link_form.link(partner),
        "code_links": [
            code.link(request.build_absolute_uri(get_script_prefix()))
            for code in partner.codes.filter(active=True).order_by("code")
        ],
        "click_id_key": settings.click_id_key,
        "sub_id_keys": settings.sub_id_keys,
        "days": days,
        "periods": [(key, label, key == days) for key, (label, *_rows) in PERIODS.items()],
        **_statistics(interval, numbers),
        "clicks_header": columns.ARRIVALS_HEADER,
        "clicks": [
            (column.label, column.text(row)) for column, row in serializers.arrivals(arrivals)
        ],
        "conversions": conversions,
        "conversion_rows": [serializers.conversion_row(row) for row in conversions.page],
        "endpoints": endpoints,
        "callbacks": callbacks,
        "is_failing": any(endpoint.is_failing for endpoint in endpoints),
        "advice": deliveries.advice([*endpoints, *callbacks]),
        "suspended_after": suspension.SUSPEND_AFTER_FAILURES,
        "suspended_after_hours": suspension.SUSPEND_AFTER // timedelta(hours=1),
        "statements": statements,
        "statement_links": [(row, f"settlements/{row.pk}/") for row in statements.page],
        "owed": [
            (balance.total, currency)
            for (_key, currency), balance in sorted(
                unpaid.balances(timezone.now(), partner).items()
            )
        ],
    }
    return render(request, "affiliations/partner/page.html", context)


@private
def statistics_file(request: HttpRequest, partner: Partner) -> HttpResponseBase:
    days = _days(request)
    period, interval = _period(days), PERIODS[days][-1]
    result = serializers.numbers(partner, period, interval)
    shown = columns.report_columns(result.total)
    lines = ([start, *columns.values(shown, row)] for (start, _key), row in result.rows.items())
    header = [capfirst(str(interval.label)), *columns.header(shown)]
    name = export.file_name(gettext("Statistics").lower(), partner.uid, period.first, period.last)
    return _csv(request, partner, name, header, lines)


@private
def clicks_file(request: HttpRequest, partner: Partner) -> HttpResponseBase:
    period = _period(_days(request))
    rows = serializers.arrivals(queries.arrivals(period, partner))
    name = export.file_name(gettext("Clicks").lower(), partner.uid, period.first, period.last)
    lines = ([column.label, column.value(row)] for column, row in rows)
    return _csv(request, partner, name, columns.ARRIVALS_HEADER, lines)


@private
def conversions_file(request: HttpRequest, partner: Partner) -> HttpResponseBase:
    period = _period(_days(request))
    rows = serializers.all_conversions(_conversions(partner, period))
    name = export.file_name(
        Conversion._meta.verbose_name_plural, partner.uid, period.first, period.last
    )
    return _csv(request, partner, name, *serializers.file(serializers.CONVERSION_COLUMNS, rows))


@private
def statement(request: HttpRequest, partner: Partner, number: str) -> HttpResponseBase:
    settlement = _settlement(partner, number)
    shown = [
        column for column in statement_lines.STATEMENT_COLUMNS if column.name not in _INSIDE_OTHERS
    ]
    context = {
        "partner": partner,
        "settlement": settlement,
        "columns": shown,
        "lines": [
            (line, serializers.cells(shown, line))
            for line in islice(serializers.statement(settlement), LINES)
        ],
        "is_cut": settlement.line_count > LINES,
        "back": "../../",
    }
    return render(request, "affiliations/partner/statement.html", context)


@private
def statement_file(request: HttpRequest, partner: Partner, number: str) -> HttpResponseBase:
    settlement = _settlement(partner, number)
    rows = serializers.statement(settlement)
    name = statement_lines.file_name(settlement)
    table = statement_lines.STATEMENT_COLUMNS
    return _csv(request, partner, name, *serializers.file(table, rows))


def _csv(
    request: HttpRequest,
    partner: Partner,
    name: str,
    header: Iterable[object],
    lines: Iterable[Sequence[object]],
) -> HttpResponseBase:
    download = downloads.begin(partner)
    if download is None:
        page = render_to_string("affiliations/partner/busy.html")
        return HttpResponse(page, status=429, headers={"Retry-After": str(RETRY_AFTER)})
    return export.as_csv(request, name, header, download.kept(lines), finish=download.end)


class _Listing:
    """One page of a long list, and the URLs of the previous and the next page."""

    def __init__(self, request: HttpRequest, name: str, rows: QuerySet[Any], size: int) -> None:
        self.page: Page[Any] = Paginator(rows, size).get_page(request.GET.get(name))
        self._query = request.GET
        self._name = name

    @property
    def previous(self) -> str | None:
        page = self.page
        return self._url(page.previous_page_number()) if page.has_previous() else None

    @property
    def next(self) -> str | None:
        return self._url(self.page.next_page_number()) if self.page.has_next() else None

    def _url(self, number: int) -> str:
        kept = {
            key: self._query[key] for key in ("days", "page", "settlements") if key in self._query
        }
        return f"?{urlencode(kept | {self._name: number})}"


def _statistics(interval: Interval, result: ReportResult) -> dict[str, Any]:
    shown = columns.report_columns(result.total)
    return {
        "totals": columns.totals(result.total),
        "charts": charts.over_time(interval, result) if result.has_data else [],
        "header": [capfirst(str(interval.label)), *columns.header(shown)],
        "rows": columns.over_time(interval, result),
    }


def _days(request: HttpRequest) -> int:
    value = request.GET.get("days", "")
    return next((days for days in PERIODS if str(days) == value), DEFAULT_PERIOD)


def _period(days: int) -> Period:
    _name, count, interval = PERIODS[days]
    return Period.past(count, interval)


def _conversions(partner: Partner, period: Period) -> ConversionQuerySet:
    return Conversion.objects.filter(
        partner=partner, is_test=False, **period.within("created_on")
    ).order_by("-created_on", "-pk")


def _settlement(partner: Partner, number: str) -> Settlement:
    if not (number.isascii() and number.isdecimal() and len(number) < 19):
        raise Http404
    settlement = partner.settlements.filter(pk=number).first()
    if settlement is None:
        raise Http404
    return settlement
