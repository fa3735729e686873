"""Partners, with their statistics and subscriptions."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin
from django.contrib.admin.options import IS_POPUP_VAR
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpResponseRedirect
from django.urls import path
from django.utils.formats import date_format
from django.utils.text import Truncator, capfirst
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations import timeline
from affiliations.admin.base import may_view
from affiliations.admin.changes import ChangesMixin
from affiliations.admin.codes import CodeInline
from affiliations.admin.filtered_clicks import arrival_rows
from affiliations.admin.filters import RECENT_DAYS, carried_period, period_of, report_parameters
from affiliations.admin.manual import CreditPage
from affiliations.admin.partner_actions import PartnerPages
from affiliations.admin.partner_list import PartnerList
from affiliations.admin.partner_record import PartnerForm, PartnerRecord
from affiliations.admin.settlements import SettlePage
from affiliations.admin.subscription_warnings import report_earning, warn_of_subscriptions
from affiliations.admin.subscriptions import (
    SubscriptionInline,
    failure_context,
    latest_callbacks,
)
from affiliations.admin.tables import Table, query_string
from affiliations.admin.visitors import shown_entries
from affiliations.callbacks.maintenance import health
from affiliations.dates import PRESETS, Period, in_active_zone, midnight
from affiliations.exceptions import Reason
from affiliations.models import Partner, RecentFilteredClick, Report, UncreditedTrigger, Visitor
from affiliations.reports import charts, columns, queries

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from django.http import HttpRequest, HttpResponse

#: The parts of a partner's page: the name of the URL of each, and the label of its tab.
_PARTS = (
    ("change", _("Link and numbers")),
    ("deal", _("Deal")),
    ("callbacks", _("Callbacks and filtered clicks")),
    ("timeline", _("Timeline")),
)
_MAX_UNCREDITED = 10
_MAX_FILTERED = 5
_MAX_ENTRIES = 50


@admin.register(Partner)
class PartnerAdmin(PartnerRecord, ChangesMixin, PartnerPages, SettlePage, CreditPage, PartnerList):
    form = PartnerForm
    # A select would list all users, and an autocomplete needs users to be registered in the Admin.
    raw_id_fields = ["users"]
    inlines = [SubscriptionInline, CodeInline]
    object_views = ["test_link", "settle", "credit", "secret", "page_link", "remove_clicks",
                    "stop_for_fraud", "reactivate"]  # fmt: skip

    class Media:
        css = {"all": ["affiliations/charts.css", "affiliations/statement.css"]}

    def save_related(
        self, request: HttpRequest, form: forms.ModelForm, formsets: Any, change: bool
    ) -> None:
        super().save_related(request, form, formsets, change)
        report_earning(request, [one for formset in formsets for one in formset.initial_forms])
        warn_of_subscriptions(request, form.instance)

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[Any]]:
        """Protect a partner with visitors: show a message, and not a list of the visitors."""
        protected = [
            gettext(
                "%(partner)s has visitors and cannot be deleted. Make the partner inactive instead."
            )
            % {"partner": partner}
            for partner in objs
            if partner.visitors.exists()
        ]
        if protected:
            return [], {}, set(), protected
        return super().get_deleted_objects(objs, request)

    def get_urls(self) -> list[Any]:
        pages = {
            "deal": self.deal_view,
            "callbacks": self.callbacks_view,
            "timeline": self.timeline_view,
        }
        urls = [
            path(
                f"<path:object_id>/{name}/",
                self.admin_site.admin_view(view),
                name=f"affiliations_partner_{name}",
            )
            for name, view in pages.items()
        ]
        return [*urls, *super().get_urls()]

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show the first part of the page; a popup or a sent form gets the second, the deal."""
        if request.method == "POST" or IS_POPUP_VAR in request.GET:
            return super().change_view(request, object_id, form_url, extra_context)
        panels = {"partner_link": self.link_panel, "partner_numbers": self.numbers_panel}
        return self._part(request, object_id, "change", panels, extra_context)

    def deal_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return super().change_view(request, object_id)

    def callbacks_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        panels = {"latest": self.callbacks_panel, "filtered": self.filtered_panel}
        return self._part(request, object_id, "callbacks", panels)

    def timeline_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._part(request, object_id, "timeline", {"timeline": self.timeline_panel})

    def _part(
        self,
        request: HttpRequest,
        object_id: str,
        part: str,
        panels: Mapping[str, Callable[[HttpRequest, Partner], dict[str, Any]]],
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Return a part of the page; ``panels`` are functions by the names of their templates."""
        row: Any = self.get_object(request, unquote(object_id))
        if not self.has_view_permission(request, row):
            raise PermissionDenied
        if row is None:
            return self.no_such_row(request, object_id)
        context = {
            **self._heading(request, row, part),
            "row_buttons": self.row_buttons(request, row),
            "panels": [f"admin/affiliations/includes/{name}.html" for name in panels],
        }
        for panel in panels.values():
            context |= panel(request, row)
        return self.row_response(request, row, "part", context | (extra_context or {}))

    def _heading(self, request: HttpRequest, row: Partner, part: str) -> dict[str, Any]:
        query = request.GET.urlencode()
        may_reactivate = row.is_stopped and self.has_stop_permission(request, row)
        failing = row.subscriptions.failing().order_by("pk")
        return {
            # Not every theme shows a subtitle.
            "title": Truncator(str(row)).chars(120),
            "subtitle": None,
            "parts": [
                (f"{self.row_url(row, name)}{query and '?'}{query}", label, name == part)
                for name, label in _PARTS
            ],
            "reactivate_url": self.row_url(row, "reactivate") if may_reactivate else "",
            "failing": [failure_context(self, request, subscription) for subscription in failing],
        }

    def get_panels(self, request: HttpRequest, row: Partner) -> dict[str, Any]:
        return self._heading(request, row, "deal")

    def response_add(
        self, request: HttpRequest, obj: Partner, post_url_continue: str | None = None
    ) -> HttpResponse:
        return super().response_add(request, obj, post_url_continue or self.row_url(obj, "deal"))

    def response_post_save_add(self, request: HttpRequest, obj: Partner) -> HttpResponseRedirect:
        """Redirect to the page of the new partner, with the link, instead of the list."""
        if not self.has_view_permission(request, obj):
            return super().response_post_save_add(request, obj)
        kept: Any = {"preserved_filters": self.get_preserved_filters(request), "opts": self.opts}
        return HttpResponseRedirect(add_preserved_filters(kept, self.row_url(obj)))

    def numbers_panel(self, request: HttpRequest, row: Partner) -> dict[str, Any]:
        asked = carried_period(request)
        period = period_of(asked)
        numbers = queries.report(period, interval=period.interval, partners=[row])
        heading = capfirst(str(period.interval.label))
        report_url = ""
        if may_view(request, Report) and self.admin_site.is_registered(Report):
            query = urlencode(report_parameters(asked) | {"partner": row.uid})
            report_url = f"{self.list_url(Report)}?{query}"
        return {
            "period": period,
            "presets": [
                (label, query_string(request, period=name, since=None, until=None), is_shown)
                for name, label in PRESETS.items()
                for is_shown in [asked == {"period": name}]
            ],
            "preset": PRESETS.get(asked.get("period", "")),
            "report_url": report_url,
            "totals": columns.totals(numbers.total),
            "header": [heading, *columns.header(columns.report_columns(numbers.total))],
            "charts": charts.over_time(period.interval, numbers) if numbers.has_data else [],
            "days": columns.over_time(period.interval, numbers),
            "total": columns.texts(columns.report_columns(numbers.total), numbers.total),
        }

    def callbacks_panel(self, request: HttpRequest, row: Partner) -> dict[str, Any]:
        return {
            "health": health(partner=row),
            "latest": latest_callbacks(self, request, row.callbacks.all()),
        }

    def timeline_panel(self, request: HttpRequest, row: Partner) -> dict[str, Any]:
        entries = timeline.recent(partner=row, limit=_MAX_ENTRIES)
        return {
            "timeline": shown_entries(self, request, entries[:_MAX_ENTRIES]),
            "timeline_limit": _MAX_ENTRIES if len(entries) > _MAX_ENTRIES else 0,
        }

    def filtered_panel(self, request: HttpRequest, row: Partner) -> dict[str, Any]:
        recent = Period.past(RECENT_DAYS)
        first = midnight(recent.first)
        arrivals = queries.arrivals(recent, row)
        filters = {"partner": row.uid, "since": recent.first, "until": recent.last}
        heading = gettext("Arrived clicks")
        files = []
        if may_view(request, Report) and self.admin_site.is_registered(Report):
            query = urlencode(filters | {"rows": "arrivals"})
            label = gettext("Download “%(heading)s” as CSV") % {"heading": heading}
            files.append((f"{self.list_url(Report)}csv/?{query}", label))
        tables = [
            Table(
                name="arrivals",
                heading=heading,
                header=[str(label) for label in columns.ARRIVALS_HEADER],
                rows=arrival_rows(self.admin_site, request, arrivals, **filters),
                files=files,
            )
        ]
        if may_view(request, RecentFilteredClick):
            latest = RecentFilteredClick.objects.of(row, first, _MAX_FILTERED)
            tables.append(_latest_table(latest))
        uncredited = UncreditedTrigger.objects.of(row, first, _MAX_UNCREDITED)
        tables.append(self._uncredited_table(uncredited, has_links=may_view(request, Visitor)))
        return {"filtered_tables": [table for table in tables if table.rows]}

    def _uncredited_table(self, rows: Iterable[UncreditedTrigger], *, has_links: bool) -> Table:
        return Table(
            name="uncredited-triggers",
            heading=gettext("Latest uncredited triggers"),
            header=[
                gettext("Visitor"),
                gettext("Trigger"),
                gettext("Reason"),
                gettext("Reference"),
                gettext("Last fired on"),
            ],
            rows=[
                (
                    str(row.visitor_id),
                    self.link_url(row.visitor) if has_links else "",
                    [
                        Truncator(row.trigger).chars(40),
                        capfirst(Reason.display(row.reason)),
                        Truncator(row.reference).chars(40),
                        _moment(row.last_on),
                    ],
                )
                for row in rows
            ],
            are_numbers=False,
        )


def _latest_table(clicks: Iterable[RecentFilteredClick]) -> Table:
    return Table(
        name="latest-filtered",
        heading=gettext("Latest filtered clicks"),
        header=[gettext("Clicked on"), gettext("Reason"), gettext("Browser")],
        rows=[
            (_moment(click.clicked_on), "", [capfirst(click.reason_display), click.browser])
            for click in clicks
        ],
        are_numbers=False,
    )


def _moment(value: datetime) -> str:
    return date_format(in_active_zone(value), "SHORT_DATETIME_FORMAT")
