"""The overview: what waits for staff, the past days and those before, and top partners."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.forms import Media
from django.template.response import TemplateResponse
from django.urls import path
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_safe

from affiliations import db
from affiliations.admin.base import ReadOnlyMixin, may_view
from affiliations.admin.filters import IS_TEST, RECENT_DAYS
from affiliations.admin.pages import STYLES
from affiliations.amounts import money
from affiliations.conversions.unpaid import balances as unpaid_balances
from affiliations.dates import Period, midnight, today
from affiliations.models import (
    Conversion,
    Overview,
    Partner,
    Report,
    Settlement,
)
from affiliations.reports.columns import (
    REPORT_COLUMNS,
    change,
    header,
    in_all_currencies,
    report_columns,
)
from affiliations.reports.numbers import Numbers
from affiliations.reports.queries import report, top_partners
from affiliations.waiting import admin_path, kinds

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

logger = logging.getLogger("affiliations")

#: The number of top partners.
TOP = 5
#: The columns of the report that are compared with the days before, and shown of top partners.
_COMPARED = ("clicks", "conversions", "rate", "revenue", "payout", "per_click")
_OF_PARTNERS = ("clicks", "conversions", "rate", "payout")


@dataclass(frozen=True)
class Waiting:
    """How many rows wait, and the list of them."""

    label: Any
    count: int
    url: str
    #: The number in words, as a lazy plural, and the words for 0; only if the rows wait for staff.
    words: Any = None
    nothing: Any = ""
    #: The commission of these rows, by currency.
    sums: dict[str, Decimal] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return str(self.words % {"count": self.count})

    @property
    def amounts(self) -> list[str]:
        return [money(self.sums[currency], currency) for currency in sorted(self.sums)]


def _url(
    request: HttpRequest, model: type[Model], page: str = "changelist", *args: Any, **query: Any
) -> str:
    """Return the URL of a page of a model; empty if this site of the Admin does not have it."""
    current_app = getattr(request, "current_app", None)
    return admin_path(model, page, *args, query=query, current_app=current_app)


def _list_url(request: HttpRequest, model: type[Model], **query: Any) -> str:
    return _url(request, model, **query) if may_view(request, model) else ""


def waiting(request: HttpRequest, *, with_sums: bool = False) -> Iterator[Waiting]:
    """Count the rows that wait for staff and that the user may view: one query for each kind."""
    for kind in kinds():
        url = may_view(request, kind.model) and _url(request, kind.model, kind.page, **kind.query)
        if not url:
            continue
        if with_sums and kind.model is Conversion:
            count, sums = kind.rows.payouts()  # type: ignore[attr-defined] # of conversions
        else:
            count, sums = kind.rows.count(), {}
        yield Waiting(kind.label, count, url, kind.words, kind.nothing, sums)


def unpaid(request: HttpRequest) -> Iterator[Waiting]:
    """Add up the pending and the unpaid commission: this waits for a date, not for staff."""
    if url := _list_url(request, Conversion, status__exact="pending", **{IS_TEST: 0}):
        count, sums = Conversion.objects.pending().filter(is_test=False).payouts()
        yield Waiting(_("pending"), count, url, sums=sums)
    day = today()
    url = _url(request, Settlement, "add", until=day)
    if url and request.user.has_perm("affiliations.add_settlement"):
        balances = unpaid_balances(midnight(day + timedelta(days=1)))
        totals: defaultdict[str, Decimal] = defaultdict(Decimal)
        for (_partner, currency), balance in balances.items():
            totals[currency] += balance.total
        yield Waiting(_("unpaid balances"), len(balances), url, sums=totals)


def past_days(request: HttpRequest) -> dict[str, Any]:
    """Return the past days, the days before and top partners, if the user may view the report."""
    if not (url := _list_url(request, Report, period=RECENT_DAYS)):
        return {}
    period = Period.past(RECENT_DAYS)
    recent, before = report(period).total, report(period.before).total
    both = Numbers(payouts=recent.payouts | before.payouts, revenue=recent.revenue | before.revenue)
    top = top_partners(period, TOP)
    partners = Partner.objects.in_bulk(top)
    shown = [column for column in REPORT_COLUMNS if column.name in _OF_PARTNERS]
    days = {"since": period.before.first, "until": period.before.last}
    return {
        "days": RECENT_DAYS,
        "recent_url": url,
        "before_url": _list_url(request, Report, **days),
        "compared": [
            (
                column.label,
                column.text(recent),
                column.text(before),
                change(column.value(recent), column.value(before)),
            )
            for column in report_columns(both)
            if column.name in _COMPARED
        ],
        "top_header": header(shown),
        "top": [
            (
                partners[key],
                _url(request, Partner, "change", key) if may_view(request, Partner) else "",
                _list_url(request, Report, period=RECENT_DAYS, partner=partners[key].uid),
                [in_all_currencies(column, numbers) for column in shown],
            )
            for key, numbers in top.items()
        ],
    }


def in_words(found: list[Waiting]) -> dict[str, Any]:
    """Return the context of the line that says what waits for staff."""
    return {
        "parts": [one for one in found if one.count],
        "nothing": found[0].nothing if found else "",
    }


def first_line(request: HttpRequest) -> dict[str, Any]:
    """
    Return the context of the same line for the Admin's index.

    It is empty if the user may not view the overview. It is also empty if a query fails: the error
    is logged, and the index of the host does not fail.
    """
    try:
        with db.savepoint():
            if url := _list_url(request, Overview):
                label = Overview._meta.app_config.verbose_name
                return {"overview_url": url, "label": label, **in_words(list(waiting(request)))}
    except Exception:
        logger.exception("The line of the overview on the index of the Admin could not be read.")
    return {}


@admin.register(Overview)
class OverviewAdmin(ReadOnlyMixin, admin.ModelAdmin):
    """The page of the overview, instead of the list of a model."""

    def __init__(self, model: type[Overview], admin_site: admin.AdminSite) -> None:
        super().__init__(model, admin_site)
        # The setting that Django documents for this. A template "admin/index.html" of this app
        # would be found only if the app stood before the Admin in INSTALLED_APPS.
        if admin_site.index_template is None:
            admin_site.index_template = "admin/affiliations/index.html"

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(require_safe(self.overview_view))
        return [path("", view, name=f"{self.opts.app_label}_{self.opts.model_name}_changelist")]

    def overview_view(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        request.current_app = self.admin_site.name
        found = list(waiting(request, with_sums=True))
        context = self.admin_site.each_context(request) | {
            "opts": self.opts,
            "title": gettext("Overview"),
            # Without the scripts of the Admin's other pages.
            "media": Media(css={"all": STYLES}),
            **in_words(found),
            "waiting": [*found, *unpaid(request)],
            **past_days(request),
        }
        return TemplateResponse(request, "admin/affiliations/overview.html", context)
