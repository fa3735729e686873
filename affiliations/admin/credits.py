"""Crediting by hand: what a partner has earned, and nothing has counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.admin.widgets import AdminTextInputWidget
from django.db import transaction
from django.http import HttpResponseRedirect
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations import conversions, payouts
from affiliations.admin.pages import RowPagesMixin, may_view, row_page
from affiliations.exceptions import NotCounted, Reason
from affiliations.models import Conversion, Partner, Subscription, Visitor

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

#: What staff can do where somebody cannot be credited by hand either.
_MENDS = {
    Reason.NOT_SUBSCRIBED: _("The partner has no active subscription to this trigger. Add one."),
    Reason.ALREADY_COUNTED: _(
        "This was counted before. Search the conversions for the reference: if another partner has "
        "it, reject that one, and credit this one under a reference such as “1001 by hand”."
    ),
    Reason.NO_REFERENCE: _("This subscription counts every reference: write one."),
}


class CreditForm(forms.Form):
    """What somebody credits a partner with who was wronged."""

    trigger = forms.ChoiceField(label=_("trigger"))
    reference = forms.CharField(
        label=_("reference"),
        max_length=255,
        required=False,
        widget=AdminTextInputWidget,
        help_text=_("This site’s own id of what was done, such as an order number."),
    )
    amount = forms.DecimalField(
        label=_("amount"), max_digits=15, decimal_places=4, min_value=0, required=False
    )
    currency = forms.CharField(
        label=_("currency"), max_length=3, required=False, help_text=_("Three letters, as in EUR.")
    )
    reason = forms.CharField(
        label=_("reason"),
        max_length=255,
        widget=AdminTextInputWidget,
        help_text=_("Kept in the history: why it is credited by hand."),
    )

    def __init__(self, partner: Partner, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.partner = partner
        subscriptions = partner.subscriptions.filter(active=True).order_by("pk")
        names = dict.fromkeys(subscriptions.values_list("trigger", flat=True))
        trigger: Any = self.fields["trigger"]
        trigger.choices = [(name, name) for name in names]

    def clean(self) -> None:
        """Refuse what the subscription could reckon no payout on, which nobody could mend later."""
        data = self.cleaned_data
        amount, currency = data.get("amount"), data.get("currency", "")
        # It counts under the oldest, where 0.12 left several.
        rules = self.partner.subscriptions.to_trigger(data.get("trigger", ""))[:1]
        is_share = any(rule.payout_type == Subscription.PayoutType.PERCENT for rule in rules)
        if is_share and amount is None and "amount" not in self.errors:
            self.add_error("amount", _("Write the amount: a percentage of it is paid."))
        is_known = bool(payouts.money(None, currency).currency)
        if (is_share or amount is not None) and not is_known and "currency" not in self.errors:
            self.add_error("currency", _("Write the currency in three letters, such as EUR."))

    def credit(self, visitor: Visitor) -> Conversion | None:
        """Credit the visitor's partner; ``None``, with a mistake that says why, where not."""
        data = self.cleaned_data
        try:
            return conversions.record(
                visitor,
                data["trigger"],
                user=visitor.user,
                reference=data["reference"],
                amount=data["amount"],
                currency=data["currency"].strip().upper(),
                by_hand=True,
            )
        except NotCounted as refusal:
            self.add_error(None, _MENDS.get(refusal.reason, refusal.reason.label))
            return None


class ClickForm(CreditForm):
    """The same, where the click was never counted."""

    click_id = forms.CharField(
        label=_("click id"),
        max_length=255,
        required=False,
        widget=AdminTextInputWidget,
        help_text=_("What the partner calls the click, where their callback URL wants one."),
    )


class CreditPage(RowPagesMixin):
    """The page of a visitor, or of a partner, that credits what was earned and not counted."""

    def has_credit_permission(
        self, request: HttpRequest, obj: Partner | Visitor | None = None
    ) -> bool:
        """Tell whether somebody may add conversions."""
        return request.user.has_perm("affiliations.add_conversion")

    @row_page(_("Credit by hand"), permission="credit")
    def credit(self, request: HttpRequest, row: Partner | Visitor) -> HttpResponse:
        """Credit a partner who was wronged, through the same door as every conversion."""
        visitor = row if isinstance(row, Visitor) else None
        partner = row if isinstance(row, Partner) else row.partner
        form_class = CreditForm if visitor else ClickForm
        form = form_class(partner, request.POST if request.method == "POST" else None)
        if form.is_valid():
            conversion = form.credit(visitor) if visitor else self._credit(request, partner, form)
            if conversion is not None:
                return self._credited(request, row, conversion, form.cleaned_data["reason"])
        reason = visitor.refusal(timezone.now()) if visitor else None
        context = {"form": form, "partner": partner, "refusal": reason.label if reason else ""}
        return self.row_response(request, row, "credit", context)

    def _credit(
        self, request: HttpRequest, partner: Partner, form: CreditForm
    ) -> Conversion | None:
        """Register a visitor whose click was not counted and credit them, or do neither."""
        alias = conversions.database()
        with transaction.atomic(using=alias):
            visitor = Visitor.objects.using(alias).create(
                partner=partner, click_id=form.cleaned_data["click_id"]
            )
            conversion = form.credit(visitor)
            if conversion is None:
                transaction.set_rollback(True, using=alias)
                return None
        self.log_addition(request, visitor, gettext("Registered by hand."))
        return conversion

    def _credited(
        self, request: HttpRequest, row: Partner | Visitor, conversion: Conversion, reason: str
    ) -> HttpResponse:
        message = gettext("Credited by hand: %(reason)s") % {"reason": reason}
        self.log_addition(request, conversion, message)
        self.message_user(request, message)
        after = self.link_url(conversion) if may_view(request, Conversion) else ""
        return HttpResponseRedirect(after or self.row_url(row))
