"""Manual conversions: staff credit a partner for a conversion that was not recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.admin.widgets import AdminTextInputWidget
from django.db import transaction
from django.http import HttpResponseRedirect
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations import db
from affiliations.admin import notified
from affiliations.admin.base import may_view
from affiliations.admin.pages import CONFIRM, ObjectViewsMixin, object_view
from affiliations.amounts import money, parse
from affiliations.conf import settings
from affiliations.conversions import recording
from affiliations.exceptions import NotCredited, Reason
from affiliations.models import Conversion, Partner, Subscription, Visitor
from affiliations.models.conversion_queries import reference_key
from affiliations.models.visitor import MAX_CLICK_ID

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

#: The messages that say what staff can do about a refusal.
_HINTS = {
    Reason.NOT_SUBSCRIBED: _("The partner has no active subscription to this trigger. Add one."),
    Reason.ALREADY_COUNTED: _(
        "This was already credited. Search the conversions for the reference. If another partner "
        "has it, reject that conversion, and then credit this one with the same reference."
    ),
    Reason.NO_REFERENCE: _("This subscription counts every order. Enter a reference."),
}


class CreditForm(forms.Form):
    """Asks for the arguments of ``recording.record`` and for the reason."""

    trigger = forms.ChoiceField(label=_("trigger"))
    reference = forms.CharField(
        label=_("reference"),
        max_length=255,
        required=False,
        widget=AdminTextInputWidget,
        help_text=_("This site’s own id of the event, such as an order number."),
    )
    amount = forms.DecimalField(
        label=_("amount"), max_digits=15, decimal_places=4, min_value=0, required=False
    )
    currency = forms.CharField(
        label=_("currency"),
        max_length=3,
        required=False,
        help_text=_("Three-letter code, such as EUR."),
    )
    reason = forms.CharField(
        label=_("reason"),
        max_length=255,
        widget=AdminTextInputWidget,
        help_text=_("Why the conversion is credited manually. Kept in the history."),
    )

    def __init__(self, partner: Partner, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.partner = partner
        #: Who was notified of the same order, and who will be.
        self.notes: list[str] = []
        subscriptions = partner.subscriptions.filter(active=True).order_by("pk")
        names = dict.fromkeys(subscriptions.values_list("trigger", flat=True))
        trigger: Any = self.fields["trigger"]
        trigger.choices = [(name, name) for name in names]

    def clean(self) -> None:
        """Refuse values that give no payout, because they cannot be corrected later."""
        data = self.cleaned_data
        amount, currency = data.get("amount"), data.get("currency", "")
        # 0.12 allowed several subscriptions to a trigger. The oldest one is credited.
        rules = self.partner.subscriptions.to_trigger(data.get("trigger", ""))[:1]
        is_percentage = any(rule.payout_type == Subscription.PayoutType.PERCENT for rule in rules)
        if is_percentage and amount is None and "amount" not in self.errors:
            self.add_error("amount", _("Enter the amount: the payout is a percentage of it."))
        is_known = bool(parse(None, currency).currency)
        if (is_percentage or amount is not None) and not is_known and "currency" not in self.errors:
            self.add_error("currency", _("Enter the three-letter currency code, such as EUR."))
        self._ask_if_notified()

    def _ask_if_notified(self) -> None:
        """Ask for a confirmation if a partner was notified of the same order, now rejected."""
        trigger, reference = (self.cleaned_data.get(name, "") for name in ("trigger", "reference"))
        if reference and trigger:
            same = Conversion.objects.filter(
                trigger=trigger, reference_key=reference_key(reference)
            )
            rejected = same.exclude(released=0).select_related("partner").order_by("pk")
            self.notes = notified.of_credit(self.partner, trigger, list(rejected))
        if self.notes and CONFIRM not in self.data:
            self.fields[CONFIRM] = forms.BooleanField(label=_("credit it anyway"))
            self.add_error(CONFIRM, _("Check who was notified, then confirm."))

    def credit(self, visitor: Visitor, by: Any) -> Conversion | None:
        """Record the conversion; ``None``, with an error in the form, if it is refused."""
        data = self.cleaned_data
        try:
            return recording.record(
                visitor,
                data["trigger"],
                user=visitor.user,
                reference=data["reference"],
                amount=data["amount"],
                currency=data["currency"].strip().upper(),
                manual=True,
                by=by,
                reason=data["reason"],
            )
        except NotCredited as refusal:
            self.add_error(None, _HINTS.get(refusal.reason, refusal.reason.label))
            return None


class NewVisitorCreditForm(CreditForm):
    """Asks for the click id too, since no visitor is known on the page of a partner."""

    click_id = forms.CharField(
        label=_("click id"),
        max_length=MAX_CLICK_ID,
        required=False,
        widget=AdminTextInputWidget,
        help_text=_("The partner’s own id of the click, if the callback URL needs it."),
    )


class CreditPage(ObjectViewsMixin):
    """The page of a visitor or a partner that records a manual conversion."""

    def has_credit_permission(
        self, request: HttpRequest, obj: Partner | Visitor | None = None
    ) -> bool:
        return request.user.has_perm("affiliations.add_conversion")

    @object_view(_("Credit manually"), permission="credit")
    def credit(self, request: HttpRequest, row: Partner | Visitor) -> HttpResponse:
        visitor = row if isinstance(row, Visitor) else None
        partner = row if isinstance(row, Partner) else row.partner
        form_class = CreditForm if visitor else NewVisitorCreditForm
        form = form_class(partner, request.POST if request.method == "POST" else None)
        if form.is_valid():
            conversion = (
                form.credit(visitor, request.user)
                if visitor
                else self._credit_new(request, partner, form)
            )
            if conversion is not None:
                return self._finish(request, row, conversion, form.cleaned_data["reason"])
        reason = visitor.refusal(timezone.now()) if visitor else None
        context = {
            "form": form,
            "notes": form.notes,
            "submit": gettext("Credit"),
            "partner": partner,
            "refusal": reason.label if reason else "",
            "has_payout_function": settings.has_payout_function,
        }
        return self.row_response(request, row, "credit", context)

    def _credit_new(
        self, request: HttpRequest, partner: Partner, form: CreditForm
    ) -> Conversion | None:
        """Create a visitor and record the conversion, both or neither."""
        alias = db.write_alias()
        with transaction.atomic(using=alias):
            visitor = Visitor.objects.using(alias).create(
                partner=partner, click_id=form.cleaned_data["click_id"]
            )
            conversion = form.credit(visitor, request.user)
            if conversion is None:
                transaction.set_rollback(True, using=alias)
                return None
        self.log_addition(request, visitor, gettext("Registered manually."))
        return conversion

    def _finish(
        self, request: HttpRequest, row: Partner | Visitor, conversion: Conversion, reason: str
    ) -> HttpResponse:
        entry = gettext("Credited manually: %(reason)s") % {"reason": reason}
        self.log_addition(request, conversion, entry)
        names: dict[str, Any] = {
            "partner": conversion.partner,
            "status": conversion.get_status_display(),
        }
        if conversion.payout is None:
            text = gettext("Credited a conversion to %(partner)s (%(status)s).")
        else:
            text = gettext("Credited %(payout)s to %(partner)s (%(status)s).")
            names["payout"] = money(conversion.payout, conversion.payout_currency)
        self.message_user(request, text % names)
        url = self.link_url(conversion) if may_view(request, Conversion) else ""
        return HttpResponseRedirect(url or self.row_url(row))
