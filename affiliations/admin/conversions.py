"""Conversions: what was credited to whom, and whether it is paid for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.db import models
from django.db.models import Q
from django.http import HttpResponseRedirect
from django.utils.formats import number_format
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations.admin.corrections import CorrectPage
from affiliations.admin.decisions import (
    TRANSITIONS,
    WORDS,
    ask_about_all,
    decidable,
    decide_all,
    decided,
)
from affiliations.admin.filters import DatesFilter, PartnerFilter, TriggerFilter
from affiliations.admin.lists import FactAdmin, badge, marked, short
from affiliations.admin.pages import row_page
from affiliations.admin.searches import ExactSearch, as_key, conversions_meant
from affiliations.admin.told import told, waited
from affiliations.amounts import money
from affiliations.models import Conversion, Subscription

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

Status = Conversion.Status


@admin.register(Conversion)
class ConversionAdmin(CorrectPage, ExactSearch, FactAdmin):
    """What was credited to whom."""

    list_display = ["key", "state", "who", "trigger", "of", "user", "order", "earns", "created_on",
                    "short_reason"]  # fmt: skip
    list_filter = [PartnerFilter, TriggerFilter, "status", "is_test", DatesFilter]
    tests = Q(is_test=True)
    sortable_by = ["key", "created_on"]
    search_fields = ["reference", "visitor__click_id"]
    search_help_text = _(
        "A reference, a click id, the id of the visitor or of the conversion, or a user by name or "
        "address, in full."
    )
    fields = [("key", "state", "why"), ("partner", "trigger", "subscription"),
              ("visitor", "after", "created_on"), ("user", "reference", "is_test"),
              ("order", "payout_type", "pays", "earns"),
              ("decided_on", "decided_by", "approve_on", "settlement")]  # fmt: skip
    readonly_fields = ["key", "after", "order", "pays", "earns", "state", "why"]
    row_pages = ["approve", "reject", "reopen", "correct"]
    actions = ["approve_selected", "reject_selected"]
    csv_columns = ["id", "trigger", "partner", "visitor_id", "click_id", "user", "reference",
                   "amount", "currency", "payout", "payout_currency", "status", "why", "created_on",
                   "decided_on", "is_test"]  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> models.QuerySet:
        """Know along with a conversion what a decision about it needs."""
        rows: models.QuerySet = super().get_queryset(request)
        return rows.select_related("visitor", "partner", "user")

    def meant(self, term: str) -> Q:
        """Return which are: by their id, or as everywhere."""
        wanted = conversions_meant(term)
        if (key := as_key(term)) is not None:
            wanted |= Q(pk=key)
        return wanted

    def get_panels(self, request: HttpRequest, row: Conversion) -> dict[str, Any]:
        """Tell the story, and show the callbacks and what else the visitor did."""
        return told(self, request, row.visitor_id, row.pk)

    def offers(self, name: str, row: Conversion) -> bool:
        """Offer the decisions that can be made."""
        if name == "correct":
            return self.can_be_corrected(row)
        return _BECOMES[name] in TRANSITIONS[row.status]

    @admin.display(description=_("reason"))
    def why(self, conversion: Conversion) -> str:
        """Return why it waits or was rejected, in the reader's language."""
        return gettext(conversion.reason) if conversion.reason else ""

    @admin.display(description=_("reason"))
    def short_reason(self, conversion: Conversion) -> str:
        """Return as much of the reason as there is room for."""
        return short(self.why(conversion))

    @admin.display(description=_("partner"))
    def who(self, conversion: Conversion) -> str:
        """Return the partner, as far as there is room."""
        return short(conversion.partner)

    @admin.display(description=_("reference"), ordering="reference")
    def of(self, conversion: Conversion) -> str:
        """Return the reference, as far as there is room."""
        return short(conversion.reference)

    @admin.display(description=_("status"))
    def state(self, conversion: Conversion) -> str:
        """Return what was decided, in its colour."""
        decided = badge(conversion.status, conversion.get_status_display())
        return marked(decided, is_test=conversion.is_test)

    @admin.display(description=_("amount"))
    def order(self, conversion: Conversion) -> str:
        """Return the amount with its currency."""
        if conversion.amount is None:
            return "-"
        return money(conversion.amount, conversion.currency)

    @admin.display(description=_("payout value"))
    def pays(self, conversion: Conversion) -> str:
        """Return the percentage, or the fixed amount with its currency."""
        value = conversion.payout_value
        if value is None:
            return "-"
        if conversion.payout_type == Subscription.PayoutType.PERCENT:
            return f"{number_format(value.normalize())}\xa0%"
        return money(value, conversion.payout_currency)

    @admin.display(description=_("payout"))
    def earns(self, conversion: Conversion) -> str:
        """Return the payout with its currency."""
        if conversion.payout is None:
            return "-"
        return money(conversion.payout, conversion.payout_currency)

    @admin.display(description=_("time from the click"))
    def after(self, conversion: Conversion) -> str:
        """Return how long it took from the click to this."""
        return waited(conversion)

    @admin.display(description=_("click id"))
    def click_id(self, conversion: Conversion) -> str:
        """Return the partner's own id of the click."""
        return conversion.visitor.click_id

    @admin.display(description=_("visitor"))
    def visitor_id(self, conversion: Conversion) -> int:
        """Return what callbacks call the visitor."""
        return conversion.visitor_id

    @row_page(_("Approve"), permission="act")
    def approve(self, request: HttpRequest, conversion: Conversion) -> HttpResponse:
        """Say that it is paid for."""
        return self._decide(request, conversion, "approve")

    @row_page(_("Reject"), permission="act")
    def reject(self, request: HttpRequest, conversion: Conversion) -> HttpResponse:
        """Say that it is not paid for, and why."""
        return self._decide(request, conversion, "reject")

    @row_page(_("Bring back"), permission="act")
    def reopen(self, request: HttpRequest, conversion: Conversion) -> HttpResponse:
        """Let a rejected one wait again."""
        return self._decide(request, conversion, "reopen")

    @admin.action(description=_("Approve selected %(verbose_name_plural)s"), permissions=["act"])
    def approve_selected(
        self, request: HttpRequest, queryset: models.QuerySet
    ) -> HttpResponse | None:
        """Ask once, then approve."""
        return self._decide_selected(request, queryset, Status.APPROVED)

    @admin.action(description=_("Reject selected %(verbose_name_plural)s"), permissions=["act"])
    def reject_selected(
        self, request: HttpRequest, queryset: models.QuerySet
    ) -> HttpResponse | None:
        """Ask why, then reject."""
        return self._decide_selected(request, queryset, Status.REJECTED)

    def _decide(self, request: HttpRequest, conversion: Conversion, name: str) -> HttpResponse:
        status = _BECOMES[name]
        title, form_class, said = WORDS[status]
        form = form_class(request.POST if request.method == "POST" else None)
        if not form.is_valid():
            return self.row_response(request, conversion, "decide", {"title": title, "form": form})
        if decided(self, request, conversion, status, form.cleaned_data["reason"]):
            self.message_user(request, said)
        else:
            text = gettext("It is decided already. Nothing was changed.")
            self.message_user(request, text, messages.WARNING)
        return HttpResponseRedirect(self.row_url(conversion))

    def _decide_selected(
        self, request: HttpRequest, rows: models.QuerySet, status: str
    ) -> HttpResponse | None:
        title, form_class, _said = WORDS[status]

        def decide(chosen: models.QuerySet, data: dict[str, Any]) -> None:
            decide_all(self, request, chosen, status, data["reason"])

        able = decidable(rows, status)
        return ask_about_all(self, request, rows, able, title, form_class, decide)


#: What a conversion becomes by each of its pages.
_BECOMES = {"approve": Status.APPROVED, "reject": Status.REJECTED, "reopen": Status.PENDING}
