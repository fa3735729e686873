"""Payout statements (settlements): their list, their pages, and their CSV files."""

from __future__ import annotations

from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.contrib import admin
from django.db.models import F
from django.http import HttpResponseRedirect
from django.utils.formats import localize
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations.admin.balances import BalancesAdmin, settle_url
from affiliations.admin.base import column, may_view
from affiliations.admin.changes import ChangesMixin
from affiliations.admin.filters import DatesFilter, PaidFilter, PartnerFilter
from affiliations.admin.pages import ObjectViewsMixin, object_view
from affiliations.amounts import money
from affiliations.conversions import statement_lines
from affiliations.dates import in_active_zone
from affiliations.models import Partner, Settlement
from affiliations.reports import columns, export

if TYPE_CHECKING:
    from django.db import models
    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase


class SettlePage(ObjectViewsMixin):
    """The button on the page of a partner that leads to the balances of the partner."""

    def has_settle_permission(self, request: HttpRequest, obj: Partner | None = None) -> bool:
        """Tell whether the user may create statements, and this Admin site has the page for it."""
        may_settle = request.user.has_perm("affiliations.add_settlement")
        return may_settle and self.admin_site.is_registered(Settlement)

    @object_view(_("Create statement"), permission="settle")
    def settle(self, request: HttpRequest, partner: Partner) -> HttpResponse:
        return HttpResponseRedirect(
            f"{settle_url(self.admin_site.name)}?{urlencode({'partner': partner.pk})}"
        )


@admin.register(Settlement)
class SettlementAdmin(ChangesMixin, BalancesAdmin):
    """The list of settlements, the pages that add and pay them, and the statements."""

    list_display = ["__str__", "partner_display", "total", "cut_off_display", "created_on",
                    "created_by_display", "paid_on"]  # fmt: skip
    list_filter = [PartnerFilter, PaidFilter, "currency", DatesFilter]
    sortable_by = ["total", "created_on", "paid_on"]
    search_fields = ["reference", "partner__name", "=partner__uid", "payment_reference"]
    search_help_text = _("Your reference, the payment’s, or the name or uid of the partner.")
    csv_columns = ["serial_number", "partner", "reference", "cut_off", "until",
                   "conversion_count", "earned", "adjustment_count", "adjusted", "currency",
                   "created_on", "created_by_display", "paid_on", "payment_reference",
                   "partner_uid", "payout_total"]  # fmt: skip
    #: All but the payment, which may be entered and corrected.
    readonly_fields = ["serial_number", "partner_display", "reference", "total", "cut_off_display",
                       "conversion_count", "earned_money", "adjustment_count", "adjusted_money",
                       "created_on", "created_by_display"]  # fmt: skip
    fields = ["paid_on", "payment_reference", *readonly_fields]
    actions = ["enter_payment", "accounting_file"]
    object_views = ["statement", "download"]

    def get_queryset(self, request: HttpRequest) -> models.QuerySet:
        rows: models.QuerySet = super().get_queryset(request)
        return rows.select_related("partner", "created_by")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Unlike other facts, because the payment can be entered and corrected.
        return admin.ModelAdmin.has_change_permission(self, request, obj)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        return super().render_change_form(
            request, context | {"show_save_and_add_another": False}, *args, **kwargs
        )

    partner_display = column("partner", _("partner"))
    created_by_display = column("created_by_display", _("created by"), label=str)
    partner_uid = column("partner.uid", _("partner uid"), label=str)
    serial_number = column("serial_number", _("number"))
    until = column("until", _("until"), label=lambda until: until)
    payout_total = column("total", _("total"), label=lambda total: total)

    @admin.display(description=_("total"), ordering=F("earned") + F("adjusted"))
    def total(self, settlement: Settlement) -> str:
        return money(settlement.total, settlement.currency)

    @admin.display(description=_("cut-off"), ordering="before")
    def cut_off_display(self, settlement: Settlement) -> str:
        return f"{settlement.get_cut_off_display()} {localize(in_active_zone(settlement.until))}"

    @admin.display(description=_("payout for conversions"))
    def earned_money(self, settlement: Settlement) -> str:
        return money(settlement.earned, settlement.currency)

    @admin.display(description=_("payout from adjustments"))
    def adjusted_money(self, settlement: Settlement) -> str:
        return money(settlement.adjusted, settlement.currency)

    @object_view(_("Statement"), permission="view")
    def statement(self, request: HttpRequest, settlement: Settlement) -> HttpResponse:
        context = self.lines(
            request, settlement, statement_lines.statement(settlement), settlement.currency
        )
        context |= {
            "csv_url": self.row_url(settlement, "download"),
            "partner_url": self.link_url(settlement.partner) if may_view(request, Partner) else "",
            "may_change": self.has_change_permission(request, settlement),
        }
        return self.row_response(request, settlement, "statement", context)

    @object_view(_("Download as CSV"), permission="view")
    def download(self, request: HttpRequest, settlement: Settlement) -> HttpResponseBase:
        uid, number = settlement.partner.uid, settlement.number
        table = [
            columns.Column("number", _("Payout statement"), lambda line: number),
            columns.Column("uid", _("Partner uid"), lambda line: uid),
            *statement_lines.STATEMENT_COLUMNS,
            columns.Column("conversion", _("Conversion"), attrgetter("conversion.pk")),
        ]
        total = {
            "number": number,
            "uid": uid,
            "description": gettext("Total"),
            "payout": settlement.total,
            "payout_currency": settlement.currency,
        }
        lines = (columns.values(table, line) for line in statement_lines.statement(settlement))
        rows = chain(lines, [[total.get(column.name) for column in table]])
        return export.as_csv(
            request, statement_lines.file_name(settlement), columns.header(table), rows
        )
