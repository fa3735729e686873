"""The codes of a partner, edited on the partner's page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.db import IntegrityError, transaction
from django.urls import get_script_prefix
from django.utils.html import format_html, format_html_join
from django.utils.text import capfirst
from django.utils.translation import gettext

from affiliations import db
from affiliations.admin.base import may_view
from affiliations.admin.changes import ChangesInlineMixin, Outdated
from affiliations.models import Partner, PartnerCode

if TYPE_CHECKING:
    from django.http import HttpRequest


class CodeFormSet(forms.BaseInlineFormSet):
    def clean(self) -> None:
        """Refuse a code that is entered twice: the model compares with stored ones only."""
        super().clean()
        seen: set[str] = set()
        for form in self.forms:
            data = getattr(form, "cleaned_data", {})
            key = data.get("code", "").lower()
            if not key or data.get("DELETE"):
                continue
            if key in seen and not form.has_error("code"):
                form.add_error(
                    "code",
                    gettext("This code is entered twice. Upper and lower case do not matter."),
                )
            seen.add(key)

    def save(self, commit: bool = True) -> Any:
        try:
            with transaction.atomic(using=db.write_alias()):
                return super().save(commit)
        except IntegrityError:  # Another user has just added the code.
            raise Outdated from None


class CodeInline(ChangesInlineMixin, admin.StackedInline):
    model = PartnerCode
    formset = CodeFormSet
    fields = [("code", "active")]
    extra = 0


def code_facts(request: HttpRequest, partner: Partner) -> list[tuple[str, str]]:
    """Return the codes of a partner with their readable links, as a fact for a panel."""
    if not may_view(request, PartnerCode):
        return []
    home = request.build_absolute_uri(get_script_prefix())
    rows = [
        (
            code.link(home),
            "" if code.active else format_html(" ({})", gettext("inactive")),
        )
        for code in partner.codes.order_by("code")
    ]
    links = format_html_join("", "<div><code>{}</code>{}</div>", rows)
    return [(capfirst(gettext("partner codes")), links)] if rows else []
