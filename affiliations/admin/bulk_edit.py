"""
The action that edits payout, approval, earning period and activity of several subscriptions.

It asks for the changes, shows them row by row, and then makes exactly those that were shown. Each
row is checked and written by a form of its own, as on the row's page.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core import signing
from django.core.exceptions import ValidationError
from django.utils.datastructures import MultiValueDict
from django.utils.text import capfirst
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from affiliations.admin.actions import AT_ONCE
from affiliations.admin.base import PAYOUT_FUNCTION, payout_value_display
from affiliations.admin.changes import ChangesForm, ChangesMixin, Outdated
from affiliations.admin.pages import CONFIRM, ObjectViewsMixin
from affiliations.admin.subscription_warnings import (
    of_earning,
    of_subscription,
    report_earning,
)
from affiliations.conf import settings
from affiliations.models import Subscription
from affiliations.models.subscription import MAX_EARNS_MONTHS

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse

_SALT = "affiliations.admin.bulk_edit"
_LEFT: list[tuple[str, Any]] = [("", _("Leave as it is"))]


class BulkForm(forms.Form):
    """Asks for the new values; an empty field leaves the value of each row."""

    payout_type = forms.ChoiceField(
        label=_("payout"), choices=[*_LEFT, *Subscription.PayoutType.choices], required=False
    )
    payout_value = forms.DecimalField(
        label=_("payout value"),
        max_digits=15,
        decimal_places=4,
        required=False,
        help_text=_("The fixed amount, or the percentage. Leave empty to keep it."),
    )
    payout_currency = forms.CharField(
        label=_("payout currency"),
        max_length=3,
        required=False,
        help_text=_("For a fixed amount only, such as EUR. Leave empty to keep it."),
    )
    approval = forms.ChoiceField(
        label=_("approval"), choices=[*_LEFT, *Subscription.Approval.choices], required=False
    )
    approve_after = forms.IntegerField(
        label=_("hold period (days)"),
        min_value=0,
        max_value=32767,
        required=False,
        help_text=_("Leave empty to keep it. Enter 0 to approve immediately."),
    )
    earns_for = forms.ChoiceField(
        label=_("earns for"), choices=[*_LEFT, *Subscription.EarnsFor.choices], required=False
    )
    earns_months = forms.IntegerField(
        label=_("earns for (months)"),
        min_value=1,
        max_value=MAX_EARNS_MONTHS,
        required=False,
        help_text=_("Only for a number of months. Leave empty to keep it."),
    )
    active = forms.ChoiceField(
        label=_("active"), choices=[*_LEFT, ("True", _("Yes")), ("False", _("No"))], required=False
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if settings.has_payout_function:
            self.fields["payout_type"].help_text = PAYOUT_FUNCTION

    def clean(self) -> None:
        if not self.errors and not self.changes():
            raise ValidationError(_("Choose at least one change."))

    def changes(self) -> dict[str, str]:
        """Return the new values by field, as the form of a row sends them."""
        chosen = {
            name: f"{value:f}" if isinstance(value, Decimal) else str(value)
            for name, value in self.cleaned_data.items()
            if value not in ("", None)
        }
        # Clear the values that a choice excludes. Otherwise the row would be refused.
        if chosen.get("payout_type") == Subscription.PayoutType.NONE:
            chosen |= {"payout_value": "", "payout_currency": ""}
        elif chosen.get("payout_type") == Subscription.PayoutType.PERCENT:
            chosen["payout_currency"] = ""
        if chosen.get("approval") == Subscription.Approval.MANUAL or (
            chosen.get("approve_after") == "0"
        ):
            chosen["approve_after"] = ""
        if chosen.get("earns_for", Subscription.EarnsFor.MONTHS) != Subscription.EarnsFor.MONTHS:
            chosen["earns_months"] = ""
        return chosen


class RowForm(ChangesForm):
    class Meta:
        model = Subscription
        fields = [
            "payout_type", "payout_value", "payout_currency", "approval", "approve_after",
            "earns_for", "earns_months", "active",
        ]  # fmt: skip

    def shown(self) -> dict[str, str]:
        """Return the present values as the hidden fields of the form would send them."""
        return {
            name: str(
                field.hidden_widget().format_value(field.prepare_value(self[name].initial)) or ""
            )
            for name, field in self.fields.items()
        }


@dataclass(frozen=True)
class _Change:
    """A row with the form that changes it."""

    row: Subscription
    form: RowForm
    shown: dict[str, str]
    #: The payout and the warnings before the change.
    payout: str
    warned: Mapping[str, str]

    @property
    def values(self) -> list[tuple[str, str, str]]:
        """The label of each changed field, with its old and new value; the payout in one line."""
        found = [
            (capfirst(gettext(label)), gettext(old), gettext(new))
            for name, (label, old, new) in zip(
                self.form.changed_data, self.form.history(), strict=True
            )
            if not name.startswith("payout_")
        ]
        if self.payout == (payout := _payout(self.row)):
            return found
        return [(capfirst(gettext("payout")), self.payout, payout), *found]

    @property
    def warnings(self) -> list[str]:
        """The warnings about the row after the change that there were not before."""
        found = of_subscription(self.row)
        return [text for name, text in found.items() if name not in self.warned]

    @property
    def errors(self) -> list[str]:
        return [str(text) for errors in self.form.errors.values() for text in errors]


def _payout(row: Subscription) -> str:
    text: str = payout_value_display(None, row)
    return row.get_payout_type_display() if row.payout_type == row.PayoutType.NONE else text


def _change(row: Subscription, new: Mapping[str, str], shown: Mapping[str, str]) -> _Change:
    """Return the form of a row that had the values ``shown`` when the user decided."""
    prefix, payout, warned = str(row.pk), _payout(row), of_subscription(row)
    data = {f"{prefix}-{name}": [value] for name, value in {**shown, **new}.items()}
    data |= {f"initial-{prefix}-{name}": [value] for name, value in shown.items()}
    form = RowForm(MultiValueDict(data), instance=row, prefix=prefix)
    return _Change(row, form, dict(shown), payout, warned)


class BulkEditMixin(ChangesMixin, ObjectViewsMixin):
    @admin.action(description=_("Edit selected subscriptions"), permissions=["change"])
    def edit_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        rows = list(queryset.select_related("partner").order_by("pk")[: AT_ONCE + 1])
        if len(rows) > AT_ONCE:
            text = gettext("Select at most %(limit)s subscriptions at once.")
            self.message_user(request, text % {"limit": AT_ONCE}, messages.WARNING)
            return None
        form = BulkForm(request.POST if CONFIRM in request.POST else None)
        if not form.is_valid() or "back" in request.POST:
            return self._bulk_response(request, rows, {"form": form})
        if "shown" in request.POST:
            if self.claim_form(request):
                self._change_all(request, form.changes(), request.POST["shown"])
            return None
        changes = [_change(row, form.changes(), RowForm(instance=row).shown()) for row in rows]
        valid = [one for one in changes if one.form.is_valid()]
        changed = [one for one in valid if one.form.has_changed()]
        context = {
            "form": form,
            "changed": changed,
            "earning": of_earning(one.form for one in changed),
            "warned": [one for one in changed if one.warnings],
            "refused": [one for one in changes if one not in valid],
            "same_count": len(valid) - len(changed),
            "shown": signing.dumps(
                {one.row.pk: one.shown for one in changed}, salt=_SALT, compress=True
            ),
        }
        return self._bulk_response(request, rows, context)

    def _bulk_response(
        self, request: HttpRequest, rows: list[Subscription], context: dict[str, Any]
    ) -> HttpResponse:
        own = {
            "title": gettext("Edit selected subscriptions"),
            "rows": rows,
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
        }
        return self.page_response(request, "subscription/edit_selected", own | context)

    def _change_all(self, request: HttpRequest, new: Mapping[str, str], signed: str) -> None:
        """Change each row as it was shown, in a transaction of its own."""
        shown: dict[str, dict[str, str]] = {}
        with suppress(signing.BadSignature):  # The form was not received completely.
            shown = signing.loads(signed, salt=_SALT)
        # Without the filters of the list, which a row may no longer match.
        rows = self.get_queryset(request).filter(pk__in=shown).select_related("partner")
        saved: list[RowForm] = []
        skipped = []
        for row in rows.order_by("pk"):
            one = _change(row, new, shown[str(row.pk)])
            try:
                if not one.form.is_valid():
                    raise Outdated
                one.form.save()
            except Outdated:
                skipped.append(f"{one.row.partner}, {one.row}")
                continue
            message = self.construct_change_message(request, one.form, None)
            self.log_change(request, one.row, message)
            saved.append(one.form)
        text = ngettext(
            "Changed %(count)s subscription.", "Changed %(count)s subscriptions.", len(saved)
        )
        self.message_user(request, text % {"count": len(saved)})
        report_earning(request, saved)
        if skipped:
            text = gettext(
                "Not changed, because another user has changed them in the meantime: %(rows)s."
            )
            names = "; ".join(skipped)
            self.message_user(request, text % {"rows": names}, messages.WARNING)
