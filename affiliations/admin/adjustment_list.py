"""The page that adjusts many conversions at once."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import messages
from django.contrib.admin.widgets import AdminTextInputWidget
from django.core import signing
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.http import HttpResponseRedirect
from django.urls import path, reverse
from django.utils.formats import number_format
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from affiliations import db
from affiliations.admin.adjustments import AdjustPage, changes, done_text
from affiliations.admin.filters import trigger_names
from affiliations.admin.pages import EDIT
from affiliations.amounts import by_currency, money
from affiliations.conversions import adjustment_list, adjustments
from affiliations.conversions.adjustments import Sum
from affiliations.models import Conversion
from affiliations.models.accounts import known_user

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

_SALT = "affiliations.admin.adjustment_list"


class ListForm(forms.Form):
    """Asks for the new amounts of many orders, and for one reason."""

    text = forms.CharField(
        label=_("list"),
        strip=False,
        max_length=adjustment_list.MAX_LINES * adjustment_list.MAX_LENGTH,
        widget=forms.Textarea({"rows": 12, "cols": 60, "class": "vLargeTextField"}),
        help_text=_(
            "A reference and the new amount of the order in each line, such as “1001, 49.90”. A "
            "currency may follow. Commas, semicolons and tabs separate the values, so that you can "
            "paste cells of a spreadsheet."
        ),
    )
    trigger = forms.ChoiceField(
        label=_("trigger"),
        required=False,
        help_text=_("Only needed if conversions of several triggers have the same reference."),
    )
    reason = forms.CharField(
        label=_("reason"),
        max_length=255,
        widget=AdminTextInputWidget,
        help_text=_("One reason for all. Shown to the partners on the payout statements."),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        trigger: Any = self.fields["trigger"]
        names = trigger_names(self.data.get("trigger", ""))
        trigger.choices = [("", gettext("Any trigger")), *((name, name) for name in names)]

    def clean_text(self) -> str:
        text: str = self.cleaned_data["text"]
        if (count := len(text.splitlines())) > adjustment_list.MAX_LINES:
            message = ngettext(
                "Paste at most %(max)s lines at once. This is %(count)s line.",
                "Paste at most %(max)s lines at once. These are %(count)s lines.",
                count,
            )
            names = {"max": number_format(adjustment_list.MAX_LINES), "count": number_format(count)}
            raise ValidationError(message % names)
        return text

    def clean(self) -> None:
        if self.errors:
            return
        data = self.cleaned_data
        self.list = adjustment_list.read(data["text"], data["reason"], data["trigger"])
        if not self.list.changes and not self.list.mistakes:
            self.add_error("text", gettext("Nothing changes. Paste at least one new amount."))


class AdjustListPage(AdjustPage):
    """The page that adjusts many conversions at once, by a list of their new amounts."""

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.adjust_list_view)
        name = "affiliations_conversion_adjust_list"
        return [path("adjust-list/", view, name=name), *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        may_adjust = self.has_adjust_permission(request)
        context = {"adjust_list_url": self._adjust_list_url() if may_adjust else ""}
        return super().changelist_view(request, context | (extra_context or {}))

    def _adjust_list_url(self) -> str:
        name = "admin:affiliations_conversion_adjust_list"
        return reverse(name, current_app=self.admin_site.name)

    def adjust_list_view(self, request: HttpRequest) -> HttpResponse:
        if not (self.has_view_permission(request) and self.has_adjust_permission(request)):
            raise PermissionDenied
        act = partial(self._adjust_list, request)
        return self.once(request, act, self._adjust_list_url(), is_atomic=False)

    def _adjust_list(self, request: HttpRequest) -> HttpResponse:
        """Show the changes of a list; on confirmation, make exactly these changes."""
        shown: dict[str, Any] = {}
        if "shown" in request.POST:
            try:
                shown = signing.loads(request.POST["shown"], salt=_SALT)
            except signing.BadSignature:
                text = gettext("The list was not received completely. Paste it again.")
                self.message_user(request, text, messages.ERROR)
        if shown and EDIT not in request.POST:
            return self._adjust_all(request, shown)
        is_sent = request.method == "POST" and "shown" not in request.POST
        form = ListForm(request.POST if is_sent else None, initial=shown.get("form"))
        if form.is_valid() and not form.list.mistakes:
            return self._preview(request, form)
        return self._list_response(
            request, {"form": form, "mistakes": self._mistakes(form) if is_sent else []}
        )

    def _mistakes(self, form: ListForm) -> list[tuple[adjustment_list.Mistake, str]]:
        """Return the mistakes of a list, each with the address of its conversion."""
        found = [] if form.errors else form.list.mistakes
        return [(one, self.row_url(one.conversion) if one.conversion else "") for one in found]

    def _preview(self, request: HttpRequest, form: ListForm) -> HttpResponse:
        totals: dict[tuple[str, str], list[Decimal]] = {}
        for one in form.list.changes:
            for name, currency in (
                ("amount", one.conversion.currency),
                ("payout", one.conversion.payout_currency),
            ):
                total = totals.setdefault((name, currency), [Decimal(0), Decimal(0)])
                total[0] += getattr(one.so_far, name)
                total[1] += getattr(one.change, name)
        shown = {
            "form": form.cleaned_data,
            "rows": [
                [one.conversion.pk, *map(str, (*one.so_far, *one.change)), one.line.text]
                for one in form.list.changes
            ],
        }
        labels = {"amount": _("Amount"), "payout": _("Payout")}
        context = {
            "form": form,
            "shown": signing.dumps(shown, salt=_SALT, compress=True),
            "rows": [
                (
                    one,
                    self.row_url(one.conversion),
                    changes(one.conversion, one.so_far, one.change),
                    adjustments.statement_display(one.conversion, one.change),
                )
                for one in form.list.changes
            ],
            "totals": [
                (
                    labels[name],
                    money(current, currency),
                    money(current + change, currency),
                    money(change, currency),
                )
                for (name, currency), (current, change) in sorted(totals.items())
            ],
            "unchanged": ", ".join(str(line.number) for line in form.list.unchanged),
            "heading": form.list.heading,
            "submit": ngettext(
                "Adjust %(count)s conversion", "Adjust %(count)s conversions", len(shown["rows"])
            )
            % {"count": len(shown["rows"])},
        }
        return self._list_response(request, context)

    def _list_response(self, request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
        own = {"title": gettext("Adjust from a list"), "back": self.list_url(Conversion)}
        return self.page_response(request, "conversion/adjust_list", own | context)

    def _adjust_all(self, request: HttpRequest, shown: dict[str, Any]) -> HttpResponse:
        """Adjust each conversion in a transaction of its own, unless it has changed since."""
        alias = db.write_alias()
        left_out: list[str] = []
        payouts: dict[str, Decimal] = {}
        # In the lock order, for a site whose request is one transaction.
        rows = sorted(shown["rows"])
        found = Conversion.objects.using(alias).in_bulk([row[0] for row in rows])
        for key, *numbers, line in rows:
            so_far, change = Sum(*map(Decimal, numbers[:2])), Sum(*map(Decimal, numbers[2:]))
            with transaction.atomic(using=alias):
                adjustment = key in found and adjustments.adjust(
                    found[key],
                    payout=change.payout,
                    amount=change.amount,
                    reason=shown["form"]["reason"],
                    by=known_user(request.user),
                    expected=so_far.payout,
                    expected_amount=so_far.amount,
                )
                if adjustment:
                    self.log_change(request, found[key], done_text(adjustment))
            if adjustment:
                so_far_paid = payouts.get(adjustment.currency, Decimal(0))
                payouts[adjustment.currency] = so_far_paid + adjustment.payout
            else:
                left_out.append(line)
        count = len(rows) - len(left_out)
        if count:
            text = ngettext(
                "Adjusted %(count)s conversion. The payouts changed by %(payouts)s.",
                "Adjusted %(count)s conversions. The payouts changed by %(payouts)s.",
                count,
            )
            self.message_user(request, text % {"count": count, "payouts": by_currency(payouts)})
        if not left_out:
            return HttpResponseRedirect(self.list_url(Conversion))
        # With the form, so that staff can check these lines and send them again.
        form = ListForm(initial=shown["form"] | {"text": "\n".join(left_out)})
        return self._list_response(request, {"form": form, "left_out": left_out})
