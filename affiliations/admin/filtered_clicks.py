"""The last filtered clicks: for a partner who says that a link does not work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _

from affiliations.admin.base import FactAdmin, column, may_view
from affiliations.admin.filters import DatesFilter, PartnerFilter
from affiliations.exceptions import Reason
from affiliations.models import RecentFilteredClick
from affiliations.reports import columns
from affiliations.tracking.clicks import Click, readable_uid

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from django.http import HttpRequest

    from affiliations.reports.numbers import Arrivals


class ReasonFilter(admin.SimpleListFilter):
    """By reason; it offers the reasons of the stored clicks."""

    title = _("reason")
    parameter_name = "reason"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> list[tuple[str, str]]:
        codes = RecentFilteredClick.objects.order_by("reason").values_list("reason", flat=True)
        found = dict.fromkeys([*codes.distinct(), *filter(None, [self.value()])])
        return [(code, capfirst(Reason.display(code))) for code in found]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(reason=self.value()) if self.value() else queryset


class ClickedFilter(DatesFilter):
    path = "clicked_on"


@admin.register(RecentFilteredClick)
class RecentFilteredClickAdmin(FactAdmin):
    list_display = ["clicked_on", "uid", "partner_start", "reason_text", "browser"]
    list_display_links = None
    list_filter = [ReasonFilter, PartnerFilter, ClickedFilter]
    list_select_related = ["partner"]
    sortable_by = ["clicked_on"]
    search_fields = ["uid"]
    search_help_text = _("The uid, a part of it, or the whole link.")
    fields = ["clicked_on", "uid", "partner", "reason_text", "browser"]
    readonly_fields = ["reason_text"]
    csv_columns = ["clicked_on", "uid", "partner", "reason_text", "browser"]

    partner_start = column("partner", _("partner"))
    reason_text = column("reason_display", _("reason"), label=capfirst)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet, search_term: str
    ) -> tuple[QuerySet, bool]:
        """Find clicks by the uid, a part of it, or the whole link."""
        click = Click.in_link(request, search_term)
        uid = search_term.strip().encode(errors="replace") if click is None else click.uid
        return queryset.filter(uid__icontains=readable_uid(uid)), False


def recent_clicks_url(site: admin.AdminSite, request: HttpRequest, **filters: Any) -> str:
    """Return the URL of the filtered list; empty if the user may not view it."""
    model = RecentFilteredClick
    if not (may_view(request, model) and site.is_registered(model)):
        return ""
    url = reverse("admin:affiliations_recentfilteredclick_changelist", current_app=site.name)
    return f"{url}?{urlencode(filters)}"


def arrival_rows(
    site: admin.AdminSite, request: HttpRequest, arrivals: Arrivals, **filters: Any
) -> list[tuple[str, str, list[str]]]:
    """Return the rows of a table of arrivals: the label, the URL of the clicks, the number."""
    return [
        (
            str(column.label),
            recent_clicks_url(site, request, reason=column.name, **filters)
            if column.name in arrivals.filtered
            else "",
            [column.text(arrivals)],
        )
        for column in columns.arrival_columns(arrivals.reasons)
    ]
