"""Corrections: what was changed about a payout, and the page that does it."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.widgets import AdminTextInputWidget
from django.core.exceptions import ValidationError
from django.http import HttpResponseRedirect
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations import corrections, payouts
from affiliations.admin.filters import DatesFilter, PartnerFilter
from affiliations.admin.lists import FactAdmin
from affiliations.admin.pages import RowPagesMixin, row_page
from affiliations.amounts import money, unbroken
from affiliations.models import Conversion, Correction

if TYPE_CHECKING:
    from django.db import models
    from django.http import HttpRequest, HttpResponse

#: As the columns of money.
_MONEY: dict[str, Any] = {"max_digits": 19, "decimal_places": 4, "min_value": 0}


class CorrectForm(forms.Form):
    """
    What a conversion is to be worth from now on.

    Not by how much it changes: nobody has to think of a minus, and to say it twice is to say it
    once.
    """

    payout = forms.DecimalField(**_MONEY)
    amount = forms.DecimalField(
        required=False,
        help_text=_("What the order is worth now. It does not change the payout."),
        **_MONEY,
    )
    reason = forms.CharField(
        label=_("reason"),
        max_length=255,
        widget=AdminTextInputWidget,
        help_text=_("The partner reads it on the statement."),
    )
    left = forms.DecimalField(widget=forms.HiddenInput, **_MONEY)

    def __init__(self, conversion: Conversion, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        label = gettext("payout from now on, in %(currency)s")
        self.fields["payout"].label = label % {"currency": conversion.payout_currency}
        if conversion.amount is None:
            del self.fields["amount"]
        else:
            label = gettext("amount from now on, in %(currency)s")
            self.fields["amount"].label = label % {"currency": conversion.currency}


class CorrectPage(RowPagesMixin):
    """The page of a conversion that corrects its payout."""

    def has_correct_permission(self, request: HttpRequest, obj: Conversion | None = None) -> bool:
        """Tell whether somebody may correct."""
        return request.user.has_perm("affiliations.add_correction")

    @row_page(_("Correct the payout"), permission="correct")
    def correct(self, request: HttpRequest, conversion: Conversion) -> HttpResponse:
        """Ask what is left of it, and why, and write the correction."""
        earlier = list(conversion.corrections.order_by("pk").select_related("created_by"))
        left = sum((one.payout for one in earlier), conversion.payout or Decimal(0))
        amount = conversion.amount
        if amount is not None:
            amount = sum((one.amount or Decimal(0) for one in earlier), amount)
        form = CorrectForm(
            conversion,
            request.POST if request.method == "POST" else None,
            initial={
                "payout": _typed(left, conversion.payout_currency),
                "amount": _typed(amount, conversion.currency),
                "left": left,
            },
        )
        if form.is_valid():
            response = self._correct(request, conversion, form, amount)
            if response is not None:
                return response
        currency = conversion.payout_currency
        return self.row_response(
            request,
            conversion,
            "correct",
            {
                "form": form,
                "can_be_corrected": self.can_be_corrected(conversion),
                "payout": money(conversion.payout or Decimal(0), currency),
                "left": money(left, currency),
                "earlier": [(one, money(one.payout, currency)) for one in earlier],
            },
        )

    def can_be_corrected(self, conversion: Conversion) -> bool:
        """Tell whether there is anything to correct."""
        approved = conversion.status == Conversion.Status.APPROVED
        return approved and conversion.payout is not None and not conversion.is_test

    def _correct(
        self,
        request: HttpRequest,
        conversion: Conversion,
        form: CorrectForm,
        amount: Decimal | None,
    ) -> HttpResponse | None:
        data = form.cleaned_data
        more = data.get("amount")
        try:
            correction = corrections.correct(
                conversion,
                payout=data["payout"] - data["left"],
                amount=None if amount is None or more is None else more - amount,
                reason=data["reason"],
                by=request.user,  # type: ignore[arg-type] # signed in
                expected=data["left"],
            )
        except ValidationError as error:
            form.add_error(None, error)
            return None
        if correction is None:
            text = gettext(
                "Nothing was corrected: somebody has decided on it or corrected it meanwhile."
            )
            self.message_user(request, text, messages.WARNING)
            return HttpResponseRedirect(self.row_url(conversion, "correct"))
        change = money(correction.payout, correction.currency)
        text = gettext("The payout was corrected by %(change)s: %(reason)s")
        return self.done(
            request, conversion, text % {"change": change, "reason": correction.reason}
        )


def _typed(value: Decimal | None, currency: str) -> Decimal | None:
    """Return an amount with the decimals of its currency, or with more where it has more."""
    if value is None:
        return None
    rounded = payouts.rounded(value, currency)
    return rounded if rounded == value else value


@admin.register(Correction)
class CorrectionAdmin(FactAdmin):
    """What was changed about payouts, and with which settlement."""

    list_display = ["key", "conversion", "partner", "kind", "change", "reason_shown", "settlement",
                    "created_on", "created_by"]  # fmt: skip
    list_filter = [PartnerFilter, "kind", ("settlement", admin.EmptyFieldListFilter), DatesFilter]
    sortable_by = ["key", "created_on"]
    search_fields = ["conversion__reference"]
    search_help_text = _("The reference of the conversion.")
    csv_columns = ["id", "conversion_id", "partner", "kind", "amount", "payout", "currency",
                   "reason_shown", "settlement", "created_on", "created_by"]  # fmt: skip
    fields = ["conversion", "partner", "kind", "order", "change", "reason_shown", "settlement",
              "created_on", "created_by"]  # fmt: skip
    readonly_fields = ["order", "change", "reason_shown"]

    def get_queryset(self, request: HttpRequest) -> models.QuerySet:
        """Know along with a correction what it is about."""
        rows: models.QuerySet = super().get_queryset(request)
        return rows.select_related("conversion", "partner", "settlement", "created_by")

    @admin.display(description=_("payout"), ordering="payout")
    def change(self, correction: Correction) -> str:
        """Return by how much the payout changed, with the currency."""
        return unbroken(correction.payout, correction.currency)

    @admin.display(description=_("amount"))
    def order(self, correction: Correction) -> str:
        """Return by how much the amount changed, with the currency."""
        if correction.amount is None:
            return "-"
        return money(correction.amount, correction.conversion.currency)

    @admin.display(description=_("conversion"))
    def conversion_id(self, correction: Correction) -> int:
        """Return the id of the conversion."""
        return correction.conversion_id

    @admin.display(description=_("reason"))
    def reason_shown(self, correction: Correction) -> str:
        """Return why, in the reader's language where it is a text of ours."""
        return gettext(correction.reason) if correction.reason else ""
