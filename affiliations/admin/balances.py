"""The page that creates payout statements: of all unpaid balances, or of one with its lines."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin.models import ADDITION
from django.core.exceptions import PermissionDenied
from django.http import HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext, ngettext

from affiliations.admin.actions import AT_ONCE
from affiliations.admin.base import FactAdmin, may_view
from affiliations.admin.payments import PaymentsMixin, log_all
from affiliations.admin.settlement_forms import (
    BalancesForm,
    SettleForm,
    StatementsForm,
    chosen_balances,
)
from affiliations.amounts import money, smallest_unit
from affiliations.conversions import settlements, statement_lines, unpaid
from affiliations.conversions.statement_lines import StatementLine
from affiliations.conversions.unpaid import Balance, CutOff, LeftOut, Unpaid
from affiliations.dates import last_day, midnight, today
from affiliations.models import Conversion, Partner, Settlement
from affiliations.models.accounts import known_user
from affiliations.models.settlement import REFERENCE_PLACEHOLDERS

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

#: The number of lines on a page; the CSV file has all lines.
LINES = 2000
#: The number of partners that a message names.
_NAMED = 10
#: Columns of a statement whose values the page shows in the cells of other columns.
_INSIDE_OTHERS = {"currency", "payout_currency", "reason"}
#: The classes of the cells of a statement.
_CLASSES = {"created_on": "aff-money", "description": "aff-words", "trigger": ""}
#: The initial value of the reference.
_PATTERN = "{year}-{month}-{number}"
#: The reasons that mean that a balance has changed since the page was opened.
_SURPRISES = {LeftOut.CHANGED, LeftOut.NOTHING}


@dataclass
class Due:
    """A balance, as the page shows it."""

    partner: Partner
    currency: str
    balance: Balance
    url: str
    #: The value of the tick box.
    value: str
    is_ticked: bool
    total: str
    earned: str
    adjusted: str
    minimum: str
    note: str


class BalancesAdmin(PaymentsMixin, FactAdmin):
    """The page "add" of payout statements."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Unlike other facts, statements are added by staff.
        return admin.ModelAdmin.has_add_permission(self, request)

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """Show the balances, or one balance with its lines; create the requested statements."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = BalancesForm(request.GET if "until" in request.GET else _until_this_month(request))
        if not form.is_valid():
            return self._page(request, "open", {"form": form})
        partner, currency = form.cleaned_data["partner"], form.cleaned_data["currency"]
        url = settle_url(self.admin_site.name)
        if partner is None or not currency:
            act = partial(self._open, request, form)
            return self.once(request, act, url, is_atomic=False)
        act = partial(self._settle, request, partner, currency, form.before, form.chosen_cut_off)
        return self.once(request, act, url)

    def _open(self, request: HttpRequest, form: BalancesForm) -> HttpResponse:
        """Show the balances; create statements of those that are ticked."""
        before, chosen = form.before, None
        create = StatementsForm(
            initial={
                "reference": _PATTERN,
                "until": before.isoformat(),
                "cut_off": form.chosen_cut_off,
            }
        )
        if request.method == "POST":
            create, chosen = (
                StatementsForm(request.POST),
                chosen_balances(request.POST.getlist("balance")),
            )
            if create.is_valid() and chosen:
                return self._create(request, create, chosen)
            if not chosen:
                text = gettext("No statement was created. Tick at least one balance.")
                self.message_user(request, text, messages.WARNING)
        partner = form.cleaned_data["partner"]
        rows = unpaid.unpaid_balances(before, partner, cut_off=form.chosen_cut_off)
        stopped = [row for row in rows if row.partner.is_stopped]
        # Balances that get a statement come first. The page then shows the rest of them.
        payable = sorted(
            (row for row in rows if not row.partner.is_stopped),
            key=lambda row: row.left_out is not None,
        )
        dues = [self._due(row, form, chosen) for row in payable[:AT_ONCE]]
        context = {
            "form": form,
            "create": create,
            "dues": dues,
            "totals": _totals(payable, dues),
            "has_minimum": any(due.minimum for due in dues),
            "held_back": [self._due(row, form, {}) for row in stopped[:AT_ONCE]],
            "partner": partner,
            "is_cut": len(payable) > len(dues),
            "count": len(payable),
            "next_values": settlements.next_reference(" ".join(REFERENCE_PLACEHOLDERS)),
            "first_reference": settlements.next_reference(create["reference"].value() or ""),
        }
        return self._page(request, "open", context)

    def _due(
        self, row: Unpaid, form: BalancesForm, chosen: dict[tuple[int, str], Balance] | None
    ) -> Due:
        balance, currency = row.balance, row.currency
        query = {"partner": row.partner.pk, "currency": currency, "cut_off": form.chosen_cut_off}
        until = form.cleaned_data["until"] or ""
        values = (row.partner.pk, currency, *asdict(balance).values())
        return Due(
            partner=row.partner,
            currency=currency,
            balance=balance,
            url=f"?{urlencode(query | {'until': until})}",
            value=":".join(map(str, values)),
            is_ticked=row.left_out is None if chosen is None else row.key in chosen,
            total=money(balance.total, currency),
            earned=money(balance.earned, currency),
            adjusted=money(balance.adjusted, currency) if balance.adjustment_count else "",
            minimum="" if row.minimum is None else money(row.minimum, currency),
            note=str(row.left_out.label) if row.left_out else "",
        )

    def _create(
        self, request: HttpRequest, form: StatementsForm, chosen: dict[tuple[int, str], Balance]
    ) -> HttpResponse:
        result = settlements.settle_all(
            form.cleaned_data["until"],
            cut_off=form.chosen_cut_off,
            by=known_user(request.user),
            reference=form.cleaned_data["reference"],
            chosen=chosen,
        )
        made = result.settlements
        sums: defaultdict[str, Decimal] = defaultdict(Decimal)
        for settlement in made:
            sums[settlement.currency] += settlement.total
        counts = Counter(settlement.currency for settlement in made)
        parts = [f"{money(sums[code], code)} ({counts[code]})" for code in sorted(sums)]
        if made:
            log_all(request, made, ADDITION, {"added": {}})
            text = ngettext(
                "Created %(count)s payout statement: %(sums)s.",
                "Created %(count)s payout statements: %(sums)s.",
                len(made),
            ) % {"count": len(made), "sums": ", ".join(parts)}
            self.message_user(request, text, messages.SUCCESS)
        else:
            self.message_user(request, gettext("No statement was created."), messages.WARNING)
        self._say_what_was_left_out(request, result.left_out)
        if made and self.has_view_permission(request):
            return HttpResponseRedirect(self.payments_url([one.pk for one in made]))
        return HttpResponseRedirect(request.get_full_path())

    def _say_what_was_left_out(
        self, request: HttpRequest, left_out: Sequence[tuple[Unpaid, LeftOut]]
    ) -> None:
        by_reason: defaultdict[LeftOut, list[Unpaid]] = defaultdict(list)
        for row, reason in left_out:
            by_reason[reason].append(row)
        for reason, rows in by_reason.items():
            names = [
                f"{row.partner} {money(row.balance.total, row.currency)}" for row in rows[:_NAMED]
            ]
            if more := len(rows) - len(names):
                text = ngettext("and %(counter)s more", "and %(counter)s more", more)
                names.append(text % {"counter": more})
            text = gettext("Left out, %(reason)s (%(count)s): %(names)s") % {
                "reason": reason.label,
                "count": len(rows),
                "names": ", ".join(names),
            }
            level = messages.WARNING if reason in _SURPRISES else messages.INFO
            self.message_user(request, text, level)

    def _settle(
        self,
        request: HttpRequest,
        partner: Partner,
        currency: str,
        before: datetime,
        cut_off: CutOff,
    ) -> HttpResponse:
        """Show the lines of a statement; on confirmation, create exactly this statement."""
        form = None
        if request.method == "POST":
            form = SettleForm(request.POST)
            settlement = form.is_valid() and settlements.settle(
                partner,
                currency,
                form.cleaned_data["until"],
                by=known_user(request.user),
                reference=form.cleaned_data["reference"],
                expected=form.shown,
                cut_off=form.chosen_cut_off,
            )
            if settlement:
                return self._settled(request, settlement)
            if form.has_error("reference"):
                text = gettext("No statement was created. Correct the error below.")
            else:
                form = None
                text = gettext(
                    "No statement was created, because the unpaid commission has changed. Check "
                    "the current figures below and try again."
                )
            self.message_user(request, text, messages.WARNING)
        balance = unpaid.balance(partner, currency, before, cut_off)
        context = self.lines(
            request, balance, statement_lines.draft(partner, currency, before, cut_off), currency
        )
        context |= {
            "form": form
            or SettleForm(
                initial=asdict(balance) | {"until": before.isoformat(), "cut_off": cut_off}
            ),
            "partner": partner,
            "currency": currency,
            "cut_off": cut_off.label,
            "until": last_day(before),
        }
        return self._page(request, "settle", context)

    def lines(
        self,
        request: HttpRequest,
        sums: Settlement | Balance,
        lines: Iterator[StatementLine],
        currency: str,
    ) -> dict[str, Any]:
        """Return the sums and the lines, as far as a page shows them."""
        table = statement_lines.STATEMENT_COLUMNS
        shown = [one for one in table if one.name not in _INSIDE_OTHERS]
        cells = [
            ("aff-number aff-money" if one.is_number else _CLASSES.get(one.name, "aff-id"), one)
            for one in shown
        ]
        may_view_conversions = may_view(request, Conversion)
        return {
            "sums": sums,
            "owed": sums.total < 0,
            "total": money(abs(sums.total), currency),
            "earned": money(sums.earned, currency),
            "adjusted": money(sums.adjusted, currency),
            "columns": shown,
            "lines": [
                {
                    "reason": line.reason,
                    "url": self.link_url(line.conversion) if may_view_conversions else "",
                    "cells": [(css, column.text(line)) for css, column in cells],
                }
                for line in islice(lines, LINES)
            ],
            "is_cut": sums.line_count > LINES,
        }

    def _settled(self, request: HttpRequest, settlement: Settlement) -> HttpResponse:
        self.log_addition(request, settlement, [{"added": {}}])
        text = gettext("Created a payout statement: %(total)s for %(partner)s.") % {
            "total": money(settlement.total, settlement.currency),
            "partner": settlement.partner,
        }
        self.message_user(request, text, messages.SUCCESS)
        if self.has_view_permission(request, settlement):
            return HttpResponseRedirect(self.row_url(settlement, "statement"))
        return HttpResponseRedirect(settle_url(self.admin_site.name))

    def _page(self, request: HttpRequest, name: str, context: dict[str, Any]) -> HttpResponse:
        own = {
            "title": gettext("Create statements")
            if name == "open"
            else gettext("Create statement"),
            "media": self.media + context["form"].media,
            "has_view_permission": self.has_view_permission(request),
            "url": settle_url(self.admin_site.name),
            "list_url": self.list_url(Settlement),
        }
        return self.page_response(request, f"settlement/{name}", own | context)


def settle_url(site: str) -> str:
    return reverse("admin:affiliations_settlement_add", current_app=site)


def _until_this_month(request: HttpRequest) -> dict[str, Any]:
    """Return the query string with the default day, the last day of the previous month."""
    return request.GET.dict() | {"until": last_day(midnight(today().replace(day=1)))}


def _totals(rows: Sequence[Unpaid], dues: Sequence[Due]) -> list[dict[str, Any]]:
    """Return for each currency the number and sum of all balances, and of the ticked ones."""
    totals = []
    for currency in sorted({row.currency for row in rows}):
        ticked = [due.balance for due in dues if due.is_ticked and due.currency == currency]
        each = [row.balance for row in rows if row.currency == currency]
        total, ticked_total = (
            money(sum((one.total for one in found), Decimal(0)), currency)
            for found in (each, ticked)
        )
        totals.append(
            {
                "currency": currency,
                "places": max(-int(smallest_unit(currency).as_tuple().exponent), 0),
                "count": len(each),
                "total": total,
                "ticked_count": len(ticked),
                "ticked_total": ticked_total,
            }
        )
    return totals
