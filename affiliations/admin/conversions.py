"""Conversions, and the decisions about them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import Q
from django.http import HttpResponseRedirect
from django.utils.html import format_html
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from affiliations.admin import notified
from affiliations.admin.actions import Exclusion, RowAction, bulk_action, row_action
from affiliations.admin.adjustment_list import AdjustListPage
from affiliations.admin.adjustments import AmountForm
from affiliations.admin.base import (
    FactAdmin,
    UserColumnsMixin,
    badge,
    column,
    marked,
    money_column,
    payout_value_display,
    short,
    test_display,
    two_lines,
)
from affiliations.admin.filters import (
    DatesFilter,
    PartnerFilter,
    ReviewFilter,
    TriggerFilter,
)
from affiliations.admin.pages import ReasonForm, object_view
from affiliations.admin.review import REVIEW_PAGE, ReviewPage
from affiliations.admin.search import ExactSearch, Term, conversions_matching
from affiliations.admin.visitors import time_from_click, timeline_context
from affiliations.amounts import by_currency
from affiliations.conversions import adjustments
from affiliations.conversions.decisions import TRANSITIONS, decide, lock_visitors
from affiliations.conversions.payouts import NO_AMOUNT
from affiliations.exceptions import NotCredited
from affiliations.models import Conversion
from affiliations.models.visitor import SUB_IDS

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse

Status = Conversion.Status

#: The status of a conversion after each action.
_STATUS_AFTER = {"approve": Status.APPROVED, "reject": Status.REJECTED, "reopen": Status.PENDING}


def _decision(name: str) -> dict[str, Any]:
    """Return what an action does, and with which conversions."""
    status = _STATUS_AFTER[name]

    def call(conversion: Conversion, reason: str, user: Any) -> Conversion | None:
        if status not in TRANSITIONS[conversion.status]:
            return None
        try:
            return conversion if decide(conversion, status, reason=reason, by=user) else None
        except NotCredited:  # Another conversion has taken its place, see refusal().
            return None

    before = [old for old, new in TRANSITIONS.items() if status in new]
    return {"call": call, "possible": Q(status__in=before), "before_many": lock_visitors}


def _why_no_payout(conversion: Conversion) -> str:
    """Return why an approval would pay nothing until staff have filled in the amount."""
    if conversion.is_test or not conversion.needs_amount:
        return ""
    return conversion.review_display or gettext(NO_AMOUNT)


_APPROVE = RowAction(
    **_decision("approve"),
    title=_("Approve"),
    done=_("Approved."),
    done_many=ngettext_lazy(
        "Approved %(count)s conversion.", "Approved %(count)s conversions.", "count"
    ),
    left_out=[
        Exclusion(
            _why_no_payout,
            ngettext_lazy(
                "%(count)s conversion has a percentage as payout, but no amount. Open it to enter "
                "the amount and approve it:",
                "%(count)s conversions have a percentage as payout, but no amount. Open each to "
                "enter the amount and approve it:",
                "count",
            ),
        ),
        Exclusion(
            attrgetter("review_display"),
            ngettext_lazy(
                "%(count)s conversion needs review and is left out:",
                "%(count)s conversions need review and are left out:",
                "count",
            ),
            page=(REVIEW_PAGE, _("Decide in the review queue")),
        ),
    ],
    form=partial(
        ReasonForm,
        hint=_(
            "Kept in the history. The partner does not see it, unless the conversion was rejected "
            "after it was in a statement: then it is on the next statement."
        ),
        required=False,
    ),
)
_REJECT = RowAction(
    **_decision("reject"),
    title=_("Reject"),
    done=_("Rejected."),
    done_many=ngettext_lazy(
        "Rejected %(count)s conversion.", "Rejected %(count)s conversions.", "count"
    ),
    form=partial(
        ReasonForm,
        hint=_(
            "Shown to the partner on the partner page and, if the conversion was already in a "
            "statement, on the next statement."
        ),
    ),
)
_REOPEN = RowAction(
    **_decision("reopen"),
    title=_("Reopen"),
    done=_("Reopened, pending."),
    done_many=ngettext_lazy(
        "Reopened %(count)s conversion.", "Reopened %(count)s conversions.", "count"
    ),
    form=partial(
        ReasonForm,
        hint=_("Shown to the partner on the partner page while the conversion is pending."),
        required=False,
    ),
)


@admin.register(Conversion)
class ConversionAdmin(UserColumnsMixin, ReviewPage, AdjustListPage, ExactSearch, FactAdmin):
    list_display = ["pk_display", "status_display", "partner_display", "reference_and_trigger",
                    "payout_and_amount", "reason_start", "user_start", "created_on"]  # fmt: skip
    list_filter = [PartnerFilter, TriggerFilter, "status", ReviewFilter, "is_test", DatesFilter]
    list_select_related = ["visitor", "partner", "user", "decided_by", "settlement"]
    sortable_by = ["pk_display", "created_on"]
    search_fields = ["reference", "visitor__click_id"]
    search_help_text = _(
        "Reference, click id, visitor id, conversion id, username or exact e-mail."
    )
    fields = [("pk_display", "status_display", "reason_display"),
              ("partner", "trigger", "subscription"),
              ("visitor", "time_from_click", "created_on"),
              ("user_link", "reference", "test_display"),
              ("amount_display", "payout_type", "payout_value_display", "payout_display"),
              ("decided_on", "decided_via", "decided_by_display"),
              ("approve_on", "settlement")]  # fmt: skip
    readonly_fields = ["pk_display", "user_link", "time_from_click", "amount_display",
                       "payout_value_display", "payout_display", "status_display", "reason_display",
                       "decided_by_display", "credited_by_display", "review_display",
                       "test_display"]  # fmt: skip
    row_actions = {"approve": _APPROVE, "reject": _REJECT, "reopen": _REOPEN}
    object_views = ["approve", "reject", "reopen", "enter_amount", "adjust"]
    skipped_many = ngettext_lazy(
        "%(count)s conversion was skipped, because its status has already changed or another "
        "conversion has taken its place.",
        "%(count)s conversions were skipped, because their status has already changed or other "
        "conversions have taken their place.",
        "count",
    )
    actions = ["approve_selected", "reject_selected"]
    csv_columns = ["id", "trigger", "partner", "partner_uid", "visitor_id", "click_id", *SUB_IDS,
                   "user_display", "reference", "code", "current_amount", "currency",
                   "current_payout", "payout_change", "payout_currency", "settlement", "status",
                   "reason_display", "created_on", "decided_on", "decider", "is_test"]  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Conversion]:
        rows: Any = super().get_queryset(request)
        with_adjustments: QuerySet[Conversion] = rows.with_adjustments()
        return with_adjustments

    def search(self, term: Term) -> Q:
        return term.or_key(conversions_matching(term))

    def get_fields(self, request: HttpRequest, obj: Conversion | None = None) -> Any:
        """Show why a conversion needed review, whatever has been decided since."""
        reviewed = ["review_display"] if obj and obj.review_reason else []
        credited = [("credited_by_display", "credit_reason")] if obj and obj.credit_reason else []
        by_code = [("code", "instead_of")] if obj and obj.code else []
        return [*self.fields, *by_code, *reviewed, *credited]

    def describe(self, row: Conversion) -> str:
        payout = "" if row.current_payout is None else self.payout_display(row)
        parts = [row, row.partner, payout, row.is_test and gettext("test (not paid)")]
        return ", ".join(str(part) for part in parts if part)

    def facts(self, rows: Sequence[Conversion]) -> Sequence[tuple[Any, str]]:
        """Return facts about conversions, such as the payouts and those already settled."""
        paid = [row for row in rows if row.is_paid]
        settled = [row for row in paid if row.settlement_id]
        stopped = {str(row.partner) for row in rows if row.partner.is_stopped}
        found = [
            (_("Payout"), _payouts(paid)),
            (
                _("Already in a payout statement"),
                settled and f"{len(settled)} ({_payouts(settled)})",
            ),
            (_("Tests (not paid)"), sum(row.is_test for row in rows)),
            (_("Stopped for fraud, not paid"), ", ".join(sorted(stopped))),
        ]
        if len(rows) > 1:
            found += [
                (_("Need review"), sum(row.needs_review for row in rows)),
                (_("Already approved"), sum(row.status == Status.APPROVED for row in rows)),
                (_("Already rejected"), sum(row.status == Status.REJECTED for row in rows)),
            ]
        return [(label, str(value)) for label, value in found if value]

    def get_panels(self, request: HttpRequest, row: Conversion) -> dict[str, Any]:
        return timeline_context(self, request, row.visitor_id, row.pk)

    def offers(self, name: str, row: Conversion) -> bool:
        if name == "adjust":
            return row.is_adjustable
        if name == "enter_amount":
            return row.may_get_amount and not row.needs_payout
        return _STATUS_AFTER[name] in TRANSITIONS[row.status]

    review_display = column("review_display", _("review reason"), label=str)
    reason_display = column("reason_display", _("reason"), label=str)
    reason_start = column("reason_display", _("reason"))
    partner_display = column("partner", _("partner"))
    amount_display = money_column("current_amount", "currency", _("amount"))
    payout_value_display = payout_value_display
    test_display = test_display
    payout_display = money_column("current_payout", "payout_currency", _("payout"))
    current_amount = column("current_amount", _("amount"), label=lambda amount: amount)
    current_payout = column("current_payout", _("payout"), label=lambda payout: payout)
    payout_change = column("payout_change", _("adjustments"), label=lambda payout: payout)
    partner_uid = column("partner.uid", _("partner uid"), label=str)
    decided_by_display = column("decided_by_display", _("decided by"), label=str)
    decider = column("decider", _("decided by"), label=str)
    credited_by_display = column("credited_by_display", _("credited by"), label=str)
    click_id = column("visitor.click_id", _("click id"), label=str)

    @admin.display(description=_("reference"))
    def reference_and_trigger(self, conversion: Conversion) -> str:
        return two_lines(short(conversion.reference), short(conversion.trigger))

    @admin.display(description=_("payout"))
    def payout_and_amount(self, conversion: Conversion) -> str:
        """Return the payout, and the amount of the order below it."""
        payout: str = self.payout_display(conversion)
        if conversion.current_amount is None:
            return payout
        amount = gettext("of %(amount)s") % {"amount": self.amount_display(conversion)}
        return two_lines(payout, amount)

    @admin.display(description=_("status"))
    def status_display(self, conversion: Conversion) -> str:
        status = badge(conversion.status, conversion.get_status_display())
        if conversion.needs_review:
            status = format_html("{} {}", status, badge("rejected", gettext("needs review")))
        return marked(status, is_test=conversion.is_test)

    @admin.display(description=_("time from the click"))
    def time_from_click(self, conversion: Conversion) -> str:
        return time_from_click(conversion)

    reject = row_action("reject", _REJECT)
    reopen = row_action("reopen", _REOPEN)
    approve_selected = bulk_action("approve", _("Approve selected %(verbose_name_plural)s"))
    reject_selected = bulk_action("reject", _("Reject selected %(verbose_name_plural)s"))

    def notes(self, row: Conversion, name: str) -> list[str]:
        return notified.of_rejection(row) if name == "reject" else []

    def refusal(self, row: Conversion, name: str) -> str:
        other = Conversion.objects.in_place_of(row).select_related("partner").first()
        if row.status == Status.REJECTED and other is not None:
            return gettext(
                "Conversion %(conversion)s of %(partner)s was credited instead, and only one of "
                "the two can count. Reject that conversion first."
            ) % {"conversion": other.pk, "partner": other.partner}
        return gettext(
            "The conversion has changed in the meantime. Check its status and try again."
        )

    @object_view(_APPROVE.title, permission="act")
    def approve(self, request: HttpRequest, conversion: Conversion) -> HttpResponse:
        if conversion.needs_amount or conversion.needs_payout:
            return self._fill_in_amount(request, conversion, "approve")
        return self.run(request, conversion, "approve")

    @object_view(_("Enter amount"), permission="act")
    def enter_amount(self, request: HttpRequest, conversion: Conversion) -> HttpResponse:
        return self._fill_in_amount(request, conversion, "enter_amount")

    def _fill_in_amount(
        self, request: HttpRequest, conversion: Conversion, name: str
    ) -> HttpResponse:
        """Fill in the missing amount or payout; also approve if ``name`` is "approve"."""
        form = AmountForm(
            request.POST if request.method == "POST" else None,
            initial={"currency": conversion.currency},
            hint=gettext("Kept in the history. The partner does not see it."),
            required=False,
        )
        is_filled_in, entered = False, ""
        if conversion.needs_payout:
            form.ask_for_payout()
        # A rejected conversion gets an amount only if it is approved.
        if form.is_valid() and (name == "approve" or self.offers(name, conversion)):
            if conversion.status == Status.REJECTED:  # Its visitor is locked before it.
                _APPROVE.before_many(Conversion.objects.filter(pk=conversion.pk))
            amount, currency = form.cleaned_data["amount"], form.cleaned_data["currency"]
            entered = self.entered(conversion, amount, currency)
            try:
                is_filled_in = adjustments.fill_in(conversion, amount, currency)
            except ValidationError as error:
                form.add_error(None, error)
        if not form.is_valid():
            title = getattr(self, name).description
            return self.row_response(request, conversion, "action", {"title": title, "form": form})
        if not is_filled_in:
            self.message_user(request, self.refusal(conversion, name), messages.WARNING)
            return HttpResponseRedirect(self.row_url(conversion))
        reason = form.cleaned_data["reason"]
        text = f"{entered} {reason}".strip()
        response = self.done(request, conversion, text)
        if name == "approve":
            if self.perform(request, conversion, name, reason):
                self.report_done(request, conversion, conversion, _APPROVE)
            else:
                self.message_user(request, self.refusal(conversion, name), messages.WARNING)
        return response


def _payouts(conversions: Sequence[Conversion]) -> str:
    """Return the sums of payouts by currency."""
    sums: defaultdict[str, Decimal] = defaultdict(Decimal)
    for row in conversions:
        sums[row.payout_currency] += row.current_payout or 0
    return by_currency(sums) if sums else ""
