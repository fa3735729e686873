"""The payment of several statements, and their accounting file."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from functools import partial
from itertools import chain, groupby, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import label_for_field
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpResponseRedirect
from django.urls import path, reverse
from django.utils.formats import date_format
from django.utils.translation import gettext, ngettext, override
from django.utils.translation import gettext_lazy as _

from affiliations import db
from affiliations.admin.actions import AT_ONCE
from affiliations.admin.changes import history_entry
from affiliations.admin.pages import ObjectViewsMixin
from affiliations.admin.settlement_forms import PaymentForm
from affiliations.amounts import money
from affiliations.dates import day_of, today
from affiliations.models import Settlement
from affiliations.reports import columns, export
from affiliations.reports.columns import Column

if TYPE_CHECKING:
    from datetime import date

    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase

#: Primary keys in a URL: single ones and ranges, such as ``7,12-30``.
_KEYS = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")

#: A row for each statement, and one for the sums of each currency.
ACCOUNTING_COLUMNS = [
    Column("uid", _("Partner uid"), attrgetter("partner.uid")),
    Column("name", _("Partner"), attrgetter("partner.name")),
    Column("currency", _("Currency"), attrgetter("currency")),
    Column("earned", _("Payout for conversions"), attrgetter("earned")),
    Column("adjusted", _("Payout from adjustments"), attrgetter("adjusted")),
    Column("total", _("Total"), attrgetter("total")),
    Column("reference", _("Reference"), attrgetter("number")),
    Column("created_on", _("Created on"), lambda statement: day_of(statement.created_on)),
    Column("paid_on", _("Paid on"), attrgetter("paid_on")),
    Column("payment_reference", _("Payment reference"), attrgetter("payment_reference")),
]
#: The columns that are summed up.
_SUMS = ("earned", "adjusted", "total")


class PaymentsMixin(ObjectViewsMixin):
    """A page and actions for several statements at once."""

    def get_urls(self) -> list[Any]:
        pages = [("payments", self.payments_view), ("accounting", self.accounting_view)]
        return [
            path(
                f"{name}/",
                self.admin_site.admin_view(view),
                name=f"affiliations_settlement_{name}",
            )
            for name, view in pages
        ] + super().get_urls()

    def payments_url(self, keys: Iterable[int], name: str = "payments") -> str:
        """Return the URL of the page, or of the file, for statements by their primary keys."""
        url = reverse(f"admin:affiliations_settlement_{name}", current_app=self.admin_site.name)
        return f"{url}?statements={_as_ranges(sorted(keys))}"

    @admin.action(description=_("Enter payment"), permissions=["change"])
    def enter_payment(
        self, request: HttpRequest, queryset: QuerySet[Settlement]
    ) -> HttpResponse | None:
        keys = list(queryset.order_by("pk").values_list("pk", flat=True)[: AT_ONCE + 1])
        if len(keys) > AT_ONCE:
            text = gettext("Select %(count)s payout statements at most.") % {"count": AT_ONCE}
            self.message_user(request, text, messages.WARNING)
            return None
        return HttpResponseRedirect(self.payments_url(keys))

    @admin.action(description=_("Download accounting file"), permissions=["view"])
    def accounting_file(
        self, request: HttpRequest, queryset: QuerySet[Settlement]
    ) -> HttpResponseBase:
        return _accounting_file(request, queryset)

    def accounting_view(self, request: HttpRequest) -> HttpResponseBase:
        return _accounting_file(request, self._statements(request))

    def payments_view(self, request: HttpRequest) -> HttpResponse:
        """Show the statements that the URL names, and enter their payment."""
        rows = self._statements(request)
        act = partial(self._payments, request, rows)
        return self.once(request, act, request.get_full_path())

    def _payments(self, request: HttpRequest, rows: QuerySet[Settlement]) -> HttpResponse:
        may_change = self.has_change_permission(request)
        if request.method == "POST" and not may_change:
            raise PermissionDenied
        form = PaymentForm(request.POST if request.method == "POST" else None)
        statements = list(rows.order_by("pk"))
        if form.is_valid():
            is_correction = "is_correction" in request.POST
            self._pay(request, statements, is_correction=is_correction, **form.cleaned_data)
            return HttpResponseRedirect(request.get_full_path())
        unpaid_count = sum(one.paid_on is None for one in statements)
        context = {
            "title": gettext("Payment"),
            "form": form,
            "statements": [
                (one, self.row_url(one, "statement"), money(one.total, one.currency))
                for one in statements
            ],
            "totals": [
                (currency, money(sums["total"], currency))
                for currency, sums in sorted(_sums(statements).items())
            ],
            "unpaid_count": unpaid_count,
            "paid_count": len(statements) - unpaid_count,
            "may_change": may_change and bool(statements),
            "csv_url": self.payments_url([one.pk for one in statements], "accounting"),
            "list_url": self.list_url(Settlement),
            "has_view_permission": True,
        }
        return self.page_response(request, "settlement/payments", context)

    def _statements(self, request: HttpRequest) -> QuerySet[Settlement]:
        if not self.has_view_permission(request):
            raise PermissionDenied
        rows: QuerySet[Settlement] = self.get_queryset(request)
        return rows.filter(pk__in=_from_ranges(request.GET.get("statements", "")))

    def _pay(
        self,
        request: HttpRequest,
        statements: Sequence[Settlement],
        *,
        is_correction: bool,
        paid_on: date,
        payment_reference: str,
    ) -> None:
        """Enter a payment; paid statements keep theirs, unless this is a correction."""
        alias, new = db.write_alias(), (paid_on, payment_reference)
        chosen = Settlement.objects.using(alias).filter(pk__in=[one.pk for one in statements])
        by_old: defaultdict[tuple[Any, ...], list[Settlement]] = defaultdict(list)
        with transaction.atomic(using=alias):
            db.lock_rows(chosen)
            for one in chosen.order_by("pk"):
                old = (one.paid_on, one.payment_reference)
                if (is_correction or one.paid_on is None) and old != new:
                    by_old[old].append(one)
            for old, group in by_old.items():
                message = _history_entry(old, new)
                log_all(request, group, CHANGE, message)
            keys = [one.pk for group in by_old.values() for one in group]
            chosen.filter(pk__in=keys).update(paid_on=paid_on, payment_reference=payment_reference)
        if not keys:
            text = gettext("Nothing was changed: these payout statements are paid already.")
            self.message_user(request, text, messages.WARNING)
            return
        text = ngettext(
            "Entered the payment of %(count)s payout statement: %(day)s.",
            "Entered the payment of %(count)s payout statements: %(day)s.",
            len(keys),
        )
        self.message_user(request, text % {"count": len(keys), "day": date_format(paid_on)})


def log_all(
    request: HttpRequest, statements: Sequence[Settlement], flag: int, message: dict[str, Any]
) -> None:
    """Write an entry of the history of each statement, in one query."""
    user: Any = request.user
    LogEntry.objects.log_actions(user.pk, statements, flag, [message])


def _history_entry(old: Sequence[Any], new: Sequence[Any]) -> dict[str, Any]:
    names = ("paid_on", "payment_reference")
    with override(None):
        labels = [str(label_for_field(name, Settlement)) for name in names]
    values = [
        [label, str(before or "-"), str(after or "-")]
        for label, before, after in zip(labels, old, new, strict=True)
        if before != after
    ]
    return history_entry(values)


def _as_ranges(keys: Sequence[int]) -> str:
    """Return keys, in their order, as in ``7,12-30``."""
    groups = [
        [key for _place, key in group]
        for _start, group in groupby(enumerate(keys), lambda pair: pair[1] - pair[0])
    ]
    return ",".join(f"{keys[0]}-{keys[-1]}" if keys[1:] else f"{keys[0]}" for keys in groups)


def _from_ranges(text: str) -> list[int]:
    """Return the keys in ``7,12-30``, as many as a page shows."""
    found = (_KEYS.fullmatch(part) for part in text.split(","))
    ranges = (range(int(one[1]), int(one[2] or one[1]) + 1) for one in found if one)
    return list(islice(chain.from_iterable(ranges), AT_ONCE))


def _sums(statements: Iterable[Settlement]) -> dict[str, dict[str, Decimal]]:
    """Return the sums of statements by currency."""
    found: dict[str, dict[str, Decimal]] = {}
    for one in statements:
        _add(found, one)
    return found


def _add(sums: dict[str, dict[str, Decimal]], statement: Settlement) -> None:
    of_currency = sums.setdefault(statement.currency, dict.fromkeys(_SUMS, Decimal(0)))
    for name in _SUMS:
        of_currency[name] += getattr(statement, name)


def _accounting_file(request: HttpRequest, rows: QuerySet[Settlement]) -> HttpResponseBase:
    return export.as_csv(
        request,
        export.file_name(gettext("accounting"), today()),
        columns.header(ACCOUNTING_COLUMNS),
        _accounting_rows(db.by_key(rows.select_related("partner"))),
    )


def _accounting_rows(statements: Iterable[Settlement]) -> Iterator[list[Any]]:
    sums: dict[str, dict[str, Decimal]] = {}
    for statement in statements:
        _add(sums, statement)
        yield columns.values(ACCOUNTING_COLUMNS, statement)
    for currency in sorted(sums):
        total = {"name": gettext("Total"), "currency": currency} | sums[currency]
        yield [total.get(column.name) for column in ACCOUNTING_COLUMNS]
