"""The form of a partner: contact, group, terms, payment."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

from django import forms
from django.contrib.admin.widgets import AdminTextareaWidget, AdminTextInputWidget
from django.utils.translation import gettext_lazy as _

from affiliations.admin.base import money_column
from affiliations.models import Partner

if TYPE_CHECKING:
    from django.contrib import admin
    from django.http import HttpRequest

    _Admin = admin.ModelAdmin
else:
    _Admin = object

_MINIMUM = ("minimum_payout", "minimum_payout_currency")


class DaysField(forms.DurationField):
    """A duration, typed as a number of days."""

    widget = forms.NumberInput

    def prepare_value(self, value: Any) -> Any:
        return f"{value / timedelta(days=1):g}" if isinstance(value, timedelta) else value

    def to_python(self, value: Any) -> timedelta | None:
        """Accept a whole number of days, at most ten years."""
        days = forms.IntegerField(required=False, min_value=1, max_value=3650).clean(value)
        return None if days is None else timedelta(days=days)


class UsersField(forms.ModelMultipleChoiceField):
    """Users, typed as their primary keys."""

    def _check_values(self, value: Any) -> Any:
        """Refuse a number that is too large for a query on SQLite."""
        try:
            return super()._check_values(value)  # type: ignore[misc] # private
        except OverflowError as error:
            message, params = self.error_messages["invalid_pk_value"], {"pk": ", ".join(value)}
            raise forms.ValidationError(message, "invalid_pk_value", params) from error


class GroupInput(AdminTextInputWidget):
    """A text, with the groups of other partners to choose from."""

    template_name = "admin/affiliations/widgets/group.html"

    def get_context(self, name: str, value: Any, attrs: dict[str, Any] | None) -> dict[str, Any]:
        context: dict[str, Any] = super().get_context(name, value, attrs)
        context["widget"]["attrs"]["list"] = f"{name}-groups"
        context["widget"]["groups"] = Partner.objects.groups()
        return context


def may_see_payment_details(request: HttpRequest) -> bool:
    return request.user.has_perm("affiliations.payment_details")


def _lines(rows: int) -> AdminTextareaWidget:
    return AdminTextareaWidget(attrs={"rows": rows})


class PartnerForm(forms.ModelForm):
    class Meta:
        field_classes = {"window": DaysField, "users": UsersField}
        labels = {
            "window": _("Attribution window in days"),
            "minimum_payout_currency": _("Currency"),
        }
        widgets = {
            "group": GroupInput,
            "notes": _lines(3),
            "terms": _lines(4),
            "payment_details": _lines(3),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if (value := self.initial.get("minimum_payout")) is not None:
            # Not a text: the form compares it with the number that is typed.
            self.initial["minimum_payout"] = Decimal(f"{value.normalize():f}")


class PartnerRecord(_Admin):
    """The fields of a partner. Payment details are only for users who have their permission."""

    readonly_fields = ["uid", "created_on", "minimum_payout_display"]
    fieldsets: ClassVar[Any] = [
        (None, {"fields": [("name", "active"), ("email", "notify"), "group", "notes"]}),
        (_("Terms and payment"), {"fields": ["terms", _MINIMUM, "payment_details"]}),
        (
            _("Tracking"),
            {"fields": ["window", "users", ("uid", "created_on")], "classes": ["collapse"]},
        ),
    ]
    #: Short, because most details can be added later.
    add_fieldsets: Any = [
        (None, {"fields": ["name", "active", "email"]}),
        (
            _("More details"),
            {
                "fields": ["notify", "group", "notes", "terms", _MINIMUM, "payment_details",
                           "window", "users"],
                "classes": ["collapse"],
            },
        ),
    ]  # fmt: skip

    minimum_payout_display = money_column(*_MINIMUM, _("minimum payout"))

    def get_readonly_fields(self, request: HttpRequest, obj: Partner | None = None) -> Any:
        """Do not let the form reactivate a stopped partner: the action asks for a reason."""
        fields = super().get_readonly_fields(request, obj)
        return [*fields, "active"] if obj and obj.is_stopped else fields

    def get_fieldsets(self, request: HttpRequest, obj: Partner | None = None) -> Any:
        replaced: dict[Any, str] = {}
        if not may_see_payment_details(request):
            replaced["payment_details"] = ""
        if obj is not None and not self.has_change_permission(request, obj):
            replaced |= dict(zip(_MINIMUM, ("minimum_payout_display", ""), strict=True))
        fieldsets = super().get_fieldsets(request, obj) if obj else self.add_fieldsets
        return [
            (name, options | {"fields": _replaced(options["fields"], replaced)})
            for name, options in fieldsets
        ]


def _replaced(rows: Any, replaced: dict[Any, str]) -> list[list[Any]]:
    """Return the rows of a fieldset with some fields replaced, or left out for an empty text."""
    found = [
        [new for name in ([row] if isinstance(row, str) else row)
         if (new := replaced.get(name, name))]
        for row in rows
    ]  # fmt: skip
    return [row for row in found if row]
