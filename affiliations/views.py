"""
The partner's own page: what they brought and what they earn, behind a private link.

To look at only, and for nobody else: it is never cached, indexed, or named to another site. It
looks into no session, so a wrong link costs one query at most. Its addresses are relative, so that
the link itself does not stand on what somebody saves or prints.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from itertools import islice
from typing import TYPE_CHECKING, Any

from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import Http404, HttpResponseNotFound
from django.shortcuts import render
from django.template.loader import render_to_string
from django.urls import get_script_prefix
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from django.utils.http import urlencode
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_safe

from affiliations import charts, disclosure, exports, figures, reports, settlements
from affiliations.conf import settings
from affiliations.models import Conversion, Partner, Settlement
from affiliations.periods import Period, Step

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

#: The periods to choose from, in days or nearly: what each is called, and how many rows of what it
#: has, of which the last is that of today.
PERIODS = {
    7: (_("7 days"), 7, Step.DAY),
    30: (_("30 days"), 30, Step.DAY),
    90: (_("13 weeks"), 13, Step.WEEK),
    365: (_("12 months"), 12, Step.MONTH),
}
USUAL_PERIOD = 30
CONVERSIONS = 25
SETTLEMENTS = 12
#: So many lines of a statement are on its page; the CSV file has all.
LINES = 500


def private(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """
    Let a view answer whoever has a partner's private link, and give it the partner.

    Whoever has none is told so in the same words, whether the link was revoked, never was one, or
    leads to what is not this partner's. Their answer is made without the host's context processors.

    Times are told where the site is, as the days of the numbers are, whatever zone is activated.
    """

    @require_safe
    @wraps(view)
    def opened(request: HttpRequest, uid: str, token: str, **which: str) -> HttpResponseBase:
        partner = Partner.objects.by_page_link(uid, token)
        try:
            if partner is None:
                raise Http404
            with timezone.override(timezone.get_default_timezone()):
                response = view(request, partner, **which)
        except Http404:
            response = HttpResponseNotFound(render_to_string("affiliations/partner/not_found.html"))
        add_never_cache_headers(response)
        # What leads to the page must not get about: into an index, or with a link to elsewhere.
        response["X-Robots-Tag"] = "noindex, nofollow"
        response["Referrer-Policy"] = "no-referrer"
        return response

    return opened


@private
def page(request: HttpRequest, partner: Partner) -> HttpResponseBase:
    """Show the link, the numbers of a period, its conversions, and what was settled."""
    days = _days(request)
    period, step = _period(days), PERIODS[days][-1]
    conversions = _Listing(
        request, "page", disclosure.conversions(_conversions(partner, period)), CONVERSIONS
    )
    settled = _Listing(request, "settlements", partner.settlements.order_by("-pk"), SETTLEMENTS)
    context = {
        "partner": partner,
        "link": partner.link(request.build_absolute_uri(get_script_prefix())),
        "click_id_key": settings.click_id_key,
        "sub_id_keys": settings.sub_id_keys,
        "days": days,
        "periods": [(one, name, one == days) for one, (name, *_rows) in PERIODS.items()],
        **_numbers(step, reports.report(period, step=step, partners=[partner])),
        "conversions": conversions,
        "shown": [disclosure.ShownConversion.of(one) for one in conversions.page],
        "settlements": settled,
        "settled": [(one, f"settlements/{one.pk}/") for one in settled.page],
        "owed": [
            (balance.total, currency)
            for (_key, currency), balance in sorted(
                settlements.balances(timezone.now(), partner).items()
            )
        ],
    }
    return render(request, "affiliations/partner/page.html", context)


@private
def conversions_file(request: HttpRequest, partner: Partner) -> HttpResponseBase:
    """Answer with the conversions of a period as a CSV file."""
    period = _period(_days(request))
    rows = disclosure.all_conversions(_conversions(partner, period))
    return exports.as_csv(
        request,
        f"{partner.uid}-{period.first}-{period.last}",
        disclosure.CONVERSION_COLUMNS,
        (one.row() for one in rows),
    )


@private
def statement(request: HttpRequest, partner: Partner, number: str) -> HttpResponseBase:
    """Show what a settlement consists of, for the screen and for paper."""
    settlement = _settlement(partner, number)
    count = settlement.conversion_count + settlement.correction_count
    context = {
        "partner": partner,
        "settlement": settlement,
        "lines": list(islice(disclosure.statement(settlement), LINES)),
        "count": count,
        "is_cut": count > LINES,
        "back": "../../",
    }
    return render(request, "affiliations/partner/statement.html", context)


@private
def statement_file(request: HttpRequest, partner: Partner, number: str) -> HttpResponseBase:
    """Answer with a settlement's lines as a CSV file."""
    settlement = _settlement(partner, number)
    return exports.as_csv(
        request,
        f"{partner.uid}-{settlement.currency}-{settlement.pk}",
        disclosure.STATEMENT_COLUMNS,
        (line.row() for line in disclosure.statement(settlement)),
    )


class _Listing:
    """One page of many rows, and the addresses of its neighbours."""

    def __init__(self, request: HttpRequest, name: str, rows: QuerySet[Any], size: int) -> None:
        self.page: Page[Any] = Paginator(rows, size).get_page(request.GET.get(name))
        self._asked = request.GET
        self._name = name

    @property
    def previous(self) -> str | None:
        """The address of the page before, if there is one."""
        page = self.page
        return self._address(page.previous_page_number()) if page.has_previous() else None

    @property
    def next(self) -> str | None:
        """The address of the page behind, if there is one."""
        return self._address(self.page.next_page_number()) if self.page.has_next() else None

    def _address(self, number: int) -> str:
        kept = {
            key: self._asked[key] for key in ("days", "page", "settlements") if key in self._asked
        }
        return f"?{urlencode(kept | {self._name: number})}"


def _numbers(step: Step, found: reports.Report) -> dict[str, Any]:
    """Return the sums, charts and rows of a report over time."""
    header = figures.header(found.currencies)
    rows = [
        (charts.when(step, start), figures.cells(numbers, found.currencies))
        for (start, _key), numbers in found.rows.items()
        if start
    ]
    return {
        "sums": zip(header, figures.cells(found.total, found.currencies), strict=True),
        "charts": [] if found.is_empty else charts.over_time(step, found),
        "header": [capfirst(str(step.label)), *header],
        "rows": rows,
    }


def _days(request: HttpRequest) -> int:
    """Read which period is asked for; what is none of them is the usual one."""
    asked = request.GET.get("days", "")
    return next((days for days in PERIODS if str(days) == asked), USUAL_PERIOD)


def _period(days: int) -> Period:
    _name, count, step = PERIODS[days]
    return Period.past(count, step)


def _conversions(partner: Partner, period: Period) -> QuerySet[Conversion]:
    return Conversion.objects.filter(
        partner=partner, is_test=False, **period.within("created_on")
    ).order_by("-created_on", "-pk")


def _settlement(partner: Partner, number: str) -> Settlement:
    """Find a settlement by what stands in the address, if it is this partner's."""
    if not (number.isascii() and number.isdecimal() and len(number) < 19):
        raise Http404
    settlement = partner.settlements.filter(pk=number).first()
    if settlement is None:
        raise Http404
    return settlement
