"""Settlements: what is open, settling it, and the statement of what was settled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import F
from django.http import HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations import exports, settlements
from affiliations.admin.filters import DatesFilter, PartnerFilter
from affiliations.admin.lists import FactAdmin
from affiliations.admin.pages import RowPagesMixin, may_view, row_page
from affiliations.admin.settling import SettleForm, WhatForm
from affiliations.amounts import money, unbroken
from affiliations.models import Conversion, Partner, Settlement
from affiliations.periods import midnight, today
from affiliations.settlements import Balance, Line

if TYPE_CHECKING:
    from django.db import models
    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase

#: So many lines and balances are on a page; the CSV file has all lines.
ON_A_PAGE = 2000


@dataclass
class Due:
    """What could be settled with a partner in one currency, for the page."""

    partner: Partner
    currency: str
    balance: Balance
    url: str

    @property
    def total(self) -> str:
        """How much it is."""
        return money(self.balance.total, self.currency)


class SettlePage(RowPagesMixin):
    """The button on the page of a partner that leads to what is open."""

    def has_settle_permission(self, request: HttpRequest, obj: Partner | None = None) -> bool:
        """Tell whether somebody may settle, and this site has the page to do it on."""
        may_settle = request.user.has_perm("affiliations.add_settlement")
        return may_settle and self.admin_site.is_registered(Settlement)

    @row_page(_("Settle"), permission="settle")
    def settle(self, request: HttpRequest, partner: Partner) -> HttpResponse:
        """Show what is open."""
        return HttpResponseRedirect(
            f"{_settle_url(self.admin_site.name)}?{urlencode({'partner': partner.pk})}"
        )


@admin.register(Settlement)
class SettlementAdmin(FactAdmin):
    """What was settled with whom; to add one is to settle what is open."""

    list_display = ["__str__", "partner", "total", "before", "created_on", "created_by"]
    list_filter = [PartnerFilter, "currency", DatesFilter]
    sortable_by = ["total", "created_on"]
    search_fields = ["reference", "partner__name", "=partner__uid"]
    search_help_text = _("Your reference of it, or a partner by name or uid.")
    csv_columns = ["id", "partner", "reference", "before", "conversion_count", "earned",
                   "correction_count", "corrected", "currency", "created_on",
                   "created_by"]  # fmt: skip
    fields = ["partner", "reference", "total", "before", "conversion_count", "earned_money",
              "correction_count", "corrected_money", "created_on", "created_by"]  # fmt: skip
    readonly_fields = ["total", "earned_money", "corrected_money"]
    row_pages = ["statement", "download"]

    def get_queryset(self, request: HttpRequest) -> models.QuerySet:
        """Know along with a settlement with whom and by whom it was made."""
        rows: models.QuerySet = super().get_queryset(request)
        return rows.select_related("partner", "created_by")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Let those settle who may."""
        return super(admin.ModelAdmin, self).has_add_permission(request)

    @admin.display(description=_("total"), ordering=F("earned") + F("corrected"))
    def total(self, settlement: Settlement) -> str:
        """Return how much is paid, with the currency."""
        return unbroken(settlement.total, settlement.currency)

    @admin.display(description=_("earned"))
    def earned_money(self, settlement: Settlement) -> str:
        """Return the sum of the conversions, with the currency."""
        return unbroken(settlement.earned, settlement.currency)

    @admin.display(description=_("corrected"))
    def corrected_money(self, settlement: Settlement) -> str:
        """Return the sum of the corrections, with the currency."""
        return unbroken(settlement.corrected, settlement.currency)

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """Show what is open; of one partner and currency, show it all, and settle it."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        asked = WhatForm(request.GET if "before" in request.GET else _from_this_month(request))
        if not asked.is_valid():
            return self._page(request, "open", {"form": asked, "dues": []})
        partner, currency = asked.cleaned_data["partner"], asked.cleaned_data["currency"]
        if partner is None or not currency:
            return self._open(request, asked)
        return self._settle(request, partner, currency, _beginning(asked.cleaned_data["before"]))

    @row_page(_("Statement"), permission="view")
    def statement(self, request: HttpRequest, settlement: Settlement) -> HttpResponse:
        """Show the lines, for the screen and for paper."""
        lines = settlements.statement(settlement)
        count = settlement.conversion_count + settlement.correction_count
        return self.row_response(
            request,
            settlement,
            "statement",
            {
                "csv_url": self.row_url(settlement, "download"),
                "owed": settlement.total < 0,
                "total": money(abs(settlement.total), settlement.currency),
                "earned": money(settlement.earned, settlement.currency),
                "corrected": money(settlement.corrected, settlement.currency),
                "count": count,
            }
            | _shown(self, request, lines, settlement.currency, count),
        )

    @row_page(_("Download as CSV"), permission="view")
    def download(self, request: HttpRequest, settlement: Settlement) -> HttpResponseBase:
        """Answer with the statement as a CSV file."""
        header = [_("Date"), _("What"), _("Trigger"), _("Reference"), _("Click id"), _("Amount"),
                  _("Currency"), _("Payout"), _("Payout currency"), _("Reason"),
                  _("Conversion")]  # fmt: skip
        rows = (
            [
                line.created_on,
                line.what,
                line.conversion.trigger,
                line.conversion.reference,
                line.click_id,
                line.amount,
                line.conversion.currency,
                line.payout,
                settlement.currency,
                line.why,
                line.conversion.pk,
            ]
            for line in settlements.statement(settlement)
        )
        name = f"{settlement.partner.uid}-{settlement.currency}-{settlement.pk}"
        return exports.as_csv(request, name, header, rows)

    def _open(self, request: HttpRequest, asked: WhatForm) -> HttpResponse:
        """Show who is owed what."""
        partner, day = asked.cleaned_data["partner"], asked.cleaned_data["before"]
        found = settlements.balances(_beginning(day), partner)
        partners = Partner.objects.in_bulk({key for key, _currency in found})
        url = _settle_url(self.admin_site.name)
        dues = [
            Due(
                partners[key],
                currency,
                balance,
                url + "?" + urlencode({"partner": key, "currency": currency, "before": day or ""}),
            )
            for (key, currency), balance in found.items()
        ]
        dues.sort(key=lambda due: (due.partner.name, due.partner.pk, due.currency))
        context = {"form": asked, "dues": dues[:ON_A_PAGE], "partner": partner}
        return self._page(request, "open", context | {"is_cut": len(dues) > ON_A_PAGE})

    def _settle(
        self, request: HttpRequest, partner: Partner, currency: str, before: datetime
    ) -> HttpResponse:
        """Show what would be settled; settle exactly that once somebody says so."""
        if request.method == "POST":
            form = SettleForm(request.POST)
            settlement = form.is_valid() and settlements.settle(
                partner,
                currency,
                form.cleaned_data["until"],
                by=request.user,  # type: ignore[arg-type] # signed in
                reference=form.cleaned_data["reference"],
                expected=form.shown,
            )
            if settlement:
                return self._settled(request, settlement)
            text = gettext(
                "Nothing was settled: what is open has changed since it was shown, or somebody has "
                "just settled it. This is what is open now."
            )
            self.message_user(request, text, messages.WARNING)
        balance = settlements.balance(partner, currency, before)
        form = SettleForm(initial=vars(balance) | {"until": before.isoformat()})
        count = balance.conversion_count + balance.correction_count
        return self._page(
            request,
            "settle",
            {
                "form": form,
                "partner": partner,
                "currency": currency,
                "before": before,
                "balance": balance,
                "owed": balance.total < 0,
                "total": money(abs(balance.total), currency),
                "earned": money(balance.earned, currency),
                "corrected": money(balance.corrected, currency),
                "count": count,
            }
            | _shown(self, request, settlements.draft(partner, currency, before), currency, count),
        )

    def _settled(self, request: HttpRequest, settlement: Settlement) -> HttpResponse:
        """Write down who settled, and go on to the statement."""
        self.log_addition(request, settlement, [{"added": {}}])
        text = gettext("Settled: %(total)s for %(partner)s.") % {
            "total": self.total(settlement),
            "partner": settlement.partner,
        }
        self.message_user(request, text, messages.SUCCESS)
        if self.has_view_permission(request, settlement):
            return HttpResponseRedirect(self.row_url(settlement, "statement"))
        return HttpResponseRedirect(_settle_url(self.admin_site.name))

    def _page(self, request: HttpRequest, name: str, context: dict[str, Any]) -> HttpResponse:
        request.current_app = self.admin_site.name
        return TemplateResponse(
            request,
            f"admin/affiliations/settlement/{name}.html",
            self.admin_site.each_context(request)
            | {
                "opts": self.opts,
                "title": gettext("Settle"),
                "media": self.media + context["form"].media,
                "has_view_permission": self.has_view_permission(request),
                "url": _settle_url(self.admin_site.name),
            }
            | context,
        )


def _settle_url(site: str) -> str:
    return reverse("admin:affiliations_settlement_add", current_app=site)


def _from_this_month(request: HttpRequest) -> dict[str, Any]:
    """Ask, where nobody says it, for what was decided before this month."""
    return request.GET.dict() | {"before": today().replace(day=1)}


def _beginning(day: date | None) -> datetime:
    """Return when a day begins where the site is; now, where there is none."""
    return timezone.now() if day is None else midnight(day)


def _shown(
    model_admin: RowPagesMixin,
    request: HttpRequest,
    lines: Iterator[Line],
    currency: str,
    count: int,
) -> dict[str, Any]:
    """Return the lines that are on a page, and whether there are more."""
    sees = may_view(request, Conversion)
    shown = [
        {
            "line": line,
            "what": line.what,
            "why": line.why,
            "url": model_admin.link_url(line.conversion) if sees else "",
            "amount": ("" if line.amount is None else money(line.amount, line.conversion.currency)),
            "payout": money(line.payout, currency),
        }
        for line in islice(lines, ON_A_PAGE)
    ]
    return {"lines": shown, "is_cut": count > ON_A_PAGE}
