"""Adjustments: their list, and the page of a conversion that adjusts it."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.widgets import AdminTextInputWidget
from django.core.exceptions import ValidationError
from django.db.models import Q
from django.http import HttpResponseRedirect
from django.utils.formats import localize
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations.admin.base import (
    FactAdmin,
    column,
    money_column,
    payout_value_display,
    two_lines,
)
from affiliations.admin.filters import DatesFilter, PartnerFilter
from affiliations.admin.pages import CONFIRM, EDIT, ObjectViewsMixin, ReasonForm, object_view
from affiliations.admin.search import ExactSearch, Term
from affiliations.amounts import money, rounded
from affiliations.conversions import adjustments
from affiliations.conversions.adjustments import PAYOUT_TOO, REJECT_INSTEAD, Sum
from affiliations.dates import in_active_zone
from affiliations.models import Adjustment, Conversion
from affiliations.models.accounts import known_user

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

#: The limits of the columns of money.
MONEY: dict[str, Any] = {"max_digits": 19, "decimal_places": 4, "min_value": 0}


class AdjustForm(forms.Form):
    """
    Asks for the new amount of the order, for the new payout, or for both.

    It does not ask for the difference, which would need a minus sign, and which would be adjusted
    twice if the form were sent twice.
    """

    amount = forms.DecimalField(required=False, **MONEY)
    payout = forms.DecimalField(required=False, **MONEY)
    reason = forms.CharField(
        label=_("reason"),
        max_length=255,
        widget=AdminTextInputWidget,
        help_text=_("Shown to the partner on the payout statement."),
    )
    current_payout = forms.DecimalField(widget=forms.HiddenInput, **MONEY)
    current_amount = forms.DecimalField(widget=forms.HiddenInput, **MONEY)

    def __init__(self, conversion: Conversion, so_far: Sum, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conversion, self.so_far = conversion, so_far
        amount, payout = self.fields["amount"], self.fields["payout"]
        label = gettext("the order is now worth, in %(currency)s")
        amount.label = label % {"currency": conversion.currency}
        label = gettext("payout entered manually, in %(currency)s")
        payout.label = label % {"currency": conversion.payout_currency}
        payout.help_text = gettext("Leave empty for the payout that follows from the amount.")
        if conversion.is_in_two_currencies:
            amount.help_text = PAYOUT_TOO
            payout.help_text = ""
        elif conversion.is_custom and conversion.depends_on_amount:
            amount.help_text = gettext("The payout changes in proportion to the amount.")
        elif conversion.depends_on_amount:
            text = gettext("The payout is calculated by the rule of the conversion: %(rule)s.")
            amount.help_text = text % {"rule": payout_value_display(None, conversion)}
        else:
            amount.help_text = gettext("The payout does not depend on the amount.")
        for name, other in (("payout", amount), ("amount", payout)):
            if getattr(conversion, name) is None:
                del self.fields[name], self.fields[f"current_{name}"]
                other.required, other.help_text = True, ""

    @property
    def is_outdated(self) -> bool:
        """Whether the conversion has changed since the page was shown."""
        current = {f"current_{name}": value for name, value in self.so_far._asdict().items()}
        shown = [name for name in current if name in self.fields]
        return any(self.cleaned_data.get(name) != current[name] for name in shown)

    def clean(self) -> None:
        amount, payout = (self.cleaned_data.get(name) for name in ("amount", "payout"))
        if self.errors or self.is_outdated:
            return
        if amount is None and payout is None:
            text = gettext("Enter what the order is worth now, or a payout.")
            raise ValidationError(text)
        if amount == 0 and payout is None:
            raise ValidationError({"amount": REJECT_INSTEAD})
        if payout is None and self.conversion.is_in_two_currencies:
            raise ValidationError({"payout": PAYOUT_TOO})
        self.change = Sum(Decimal(0), Decimal(0))
        if amount is not None:
            self.change = adjustments.change_by_rule(self.conversion, amount, self.so_far)
        if payout is not None:
            self.change = self.change._replace(payout=payout - self.so_far.payout)
        adjustments.check(self.conversion, self.so_far, self.change, self.cleaned_data["reason"])


class AmountForm(ReasonForm):
    """Asks for the missing amount of a conversion, and for a reason."""

    amount = forms.DecimalField(
        label=_("amount"),
        help_text=_("The payout is calculated from this amount. You can enter it only once."),
        **MONEY,
    )
    currency = forms.CharField(
        label=_("currency"), max_length=3, help_text=_("The three-letter code, such as EUR.")
    )
    field_order = ["amount", "currency", "reason"]

    def ask_for_payout(self) -> None:
        """Ask for the payout instead, which this site could not calculate."""
        amount = self.fields["amount"]
        amount.label = gettext("payout")
        amount.help_text = gettext(
            "This site could not calculate the payout. You can enter it only once."
        )


class AdjustPage(ObjectViewsMixin):
    def has_adjust_permission(self, request: HttpRequest, obj: Conversion | None = None) -> bool:
        return request.user.has_perm("affiliations.add_adjustment")

    @object_view(_("Adjust payout"), permission="adjust")
    def adjust(self, request: HttpRequest, conversion: Conversion) -> HttpResponse:
        """Show what an adjustment will do; on confirmation, do it."""
        earlier = list(conversion.adjustments.order_by("pk").select_related("created_by"))
        so_far = adjustments.so_far(conversion)
        form = AdjustForm(
            conversion,
            so_far,
            request.POST if request.method == "POST" else None,
            initial={
                "amount": _for_input(conversion.current_amount, conversion.currency),
                "current_payout": so_far.payout,
                "current_amount": so_far.amount,
            },
        )
        context: dict[str, Any] = {
            "form": form,
            "payout": money(conversion.payout or Decimal(0), conversion.payout_currency),
            "current_payout": money(so_far.payout, conversion.payout_currency),
            "earlier": [(row, money(row.payout, conversion.payout_currency)) for row in earlier],
            "statement": adjustments.statement_display(conversion),
        }
        if conversion.is_adjustable and form.is_valid():
            if form.is_outdated or CONFIRM in request.POST:
                return self._adjust(request, conversion, form)
            if EDIT not in request.POST:
                context |= {
                    "changes": changes(conversion, so_far, form.change),
                    "statement": adjustments.statement_display(conversion, form.change),
                }
        return self.row_response(request, conversion, "adjust", context)

    def _adjust(
        self, request: HttpRequest, conversion: Conversion, form: AdjustForm
    ) -> HttpResponse:
        adjustment = not form.is_outdated and adjustments.adjust(
            conversion,
            payout=form.change.payout,
            amount=form.change.amount or None,
            reason=form.cleaned_data["reason"],
            by=known_user(request.user),
            expected=form.so_far.payout,
            expected_amount=form.so_far.amount,
        )
        if not adjustment:
            text = gettext(
                "Nothing was adjusted, because the conversion has changed in the meantime. Check "
                "the current payout and try again."
            )
            self.message_user(request, text, messages.WARNING)
            return HttpResponseRedirect(self.row_url(conversion, "adjust"))
        return self.done(request, conversion, done_text(adjustment))


def changes(conversion: Conversion, so_far: Sum, change: Sum) -> list[tuple[Any, ...]]:
    """Return what changes, for a table: a label, the current value, and the new one."""
    rows = (
        (_("Amount"), conversion.amount, so_far.amount, change.amount, conversion.currency),
        (_("Payout"), conversion.payout, so_far.payout, change.payout, conversion.payout_currency),
    )
    return [
        (label, money(current, currency), money(current + difference, currency))
        for label, recorded, current, difference, currency in rows
        if recorded is not None
    ]


def done_text(adjustment: Adjustment) -> str:
    text = gettext("The payout was adjusted by %(change)s: %(reason)s")
    change = money(adjustment.payout, adjustment.currency)
    if not adjustment.payout:
        text = gettext("The amount was adjusted by %(change)s: %(reason)s")
        change = money(adjustment.amount or Decimal(0), adjustment.conversion.currency)
    return text % {"change": change, "reason": adjustment.reason}


def _for_input(value: Decimal | None, currency: str) -> Decimal | None:
    """Return an amount with the decimals of its currency, or with more if it has more."""
    if value is None:
        return None
    return short if (short := rounded(value, currency)) == value else value


@admin.register(Adjustment)
class AdjustmentAdmin(ExactSearch, FactAdmin):
    list_display = ["pk_display", "conversion", "partner_display", "kind", "payout_display",
                    "reason_display", "settlement", "adjusted"]  # fmt: skip
    list_filter = [PartnerFilter, "kind", ("settlement", admin.EmptyFieldListFilter), DatesFilter]
    list_select_related = ["conversion", "partner", "settlement", "created_by"]
    sortable_by = ["pk_display", "adjusted"]
    search_fields = ["conversion__reference"]
    search_help_text = _("Reference of the conversion.")
    csv_columns = ["id", "conversion_id", "partner", "kind", "amount", "payout", "currency",
                   "reason_display", "settlement", "created_on", "created_by_display"]  # fmt: skip
    fields = ["conversion", "partner", "kind", "amount_display", "payout_display",
              "reason_display", "settlement", "created_on", "created_by_display"]  # fmt: skip
    readonly_fields = ["amount_display", "payout_display", "reason_display", "created_by_display"]

    def search(self, term: Term) -> Q:
        return Q(conversion__reference__in=term.references)

    partner_display = column("partner", _("partner"))
    payout_display = money_column("payout", "currency", _("payout"), ordering="payout")
    amount_display = money_column("amount", "conversion.currency", _("amount"))
    reason_display = column("reason_display", _("reason"), label=str)
    created_by_display = column("created_by_display", _("adjusted by"), label=str)

    @admin.display(description=_("adjusted on"), ordering="created_on")
    def adjusted(self, adjustment: Adjustment) -> str:
        """Return the time with the user below it: in columns of their own, the list is too wide."""
        return two_lines(
            localize(in_active_zone(adjustment.created_on)), adjustment.created_by_display
        )
