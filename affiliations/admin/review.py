"""The review queue: the conversions that only staff can decide about, many on one page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import Count
from django.http import HttpResponseRedirect
from django.urls import path, reverse
from django.utils.formats import number_format
from django.utils.functional import cached_property
from django.utils.text import Truncator
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations import db
from affiliations.admin.actions import RowActionsMixin
from affiliations.admin.adjustments import AmountForm
from affiliations.admin.base import FactAdmin, may_view
from affiliations.admin.search import as_key
from affiliations.admin.visitors import time_from_click
from affiliations.amounts import money
from affiliations.conversions import adjustments
from affiliations.dates import Period
from affiliations.models import Conversion, Partner
from affiliations.models.accounts import user_display
from affiliations.reports.columns import percentage

if TYPE_CHECKING:
    from django.db.models import Model, QuerySet
    from django.http import HttpRequest, HttpResponse

Status = Conversion.Status

#: The name of the URL of the page.
REVIEW_PAGE = "admin:affiliations_conversion_review"
#: The number of conversions on a page: as many as staff can look at before they save.
PER_PAGE = 25
#: The number up to which waiting conversions are counted.
_MAX_COUNT = 1000
#: The number of past days in a partner's record.
_DAYS = 90
#: The number of reasons that a field suggests, and of rejections that they are taken from.
_SUGGESTED, _REJECTIONS = 20, 200
#: The length to which a partner's notes are cut.
_NOTES = 120


class DecisionForm(AmountForm):
    """Asks for a decision about a conversion, and for the amount or the reason that it needs."""

    decision = forms.ChoiceField(
        label=_("Decision"),
        choices=[("approve", _("Approve")), ("reject", _("Reject")), ("leave", _("Leave"))],
        widget=forms.RadioSelect,
        required=False,
    )
    #: A hash of the conversion as the page has shown it, see ``_hash()``.
    shown = forms.CharField(widget=forms.HiddenInput)

    def __init__(self, conversion: Conversion, data: Any = None) -> None:
        super().__init__(
            data,
            prefix=str(conversion.pk),
            initial={"currency": conversion.currency, "shown": _hash(conversion)},
            required=False,
        )
        self.conversion = conversion
        self.fields["reason"].widget = forms.TextInput(
            {"list": "aff-reasons", "autocomplete": "off", "maxlength": 255}
        )
        for name in ("amount", "currency"):
            self.fields[name].required = False
            if not (conversion.needs_amount or conversion.needs_payout):
                del self.fields[name]
        if conversion.needs_payout:
            self.ask_for_payout()

    @property
    def is_decided(self) -> bool:
        return self["decision"].value() not in (None, "", "leave")

    @cached_property
    def is_current(self) -> bool:
        """Whether the conversion still waits, and is as the page has shown it."""
        row = self.conversion
        return row.needs_review and not row.is_test and self["shown"].value() == _hash(row)

    def clean(self) -> None:
        data = self.cleaned_data
        if data.get("decision") == "reject" and not data.get("reason"):
            self.add_error("reason", _("Enter a reason. The partner sees it on the partner page."))
        if data.get("decision") != "approve" or "amount" not in data or "currency" not in data:
            return
        if data["amount"] is None:
            text = _("Enter the amount. The payout is calculated from it.")
            if self.conversion.needs_payout:
                text = _("Enter the payout. This site could not calculate it.")
            self.add_error("amount", text)
            return
        try:
            adjustments.missing_amount(self.conversion, data["amount"], data["currency"])
        except ValidationError as error:
            self.add_error(None, error)


class DecisionCounts(Counter[str]):
    """The number of a partner's recent conversions by status."""

    def __str__(self) -> str:
        decided = self[Status.APPROVED] + self[Status.REJECTED]
        share = Decimal(self[Status.REJECTED]) / decided if decided else None
        text = gettext(
            "%(approved)s approved, %(rejected)s rejected (%(share)s), %(pending)s pending"
        )
        counts = {str(status): number_format(self[status]) for status in Status}
        return text % (counts | {"share": percentage(share)})


class ReviewPage(RowActionsMixin, FactAdmin):
    """The review queue, which the list of conversions links to."""

    #: The column of the list.
    payout_and_amount: Any

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.review_view)
        return [
            path("review/", view, name=REVIEW_PAGE.partition(":")[2]),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {"review_count": _waiting(), "review_url": self._review_url()}
        return super().changelist_view(request, context | (extra_context or {}))

    def review_view(self, request: HttpRequest) -> HttpResponse:
        """Show the oldest conversions that need review, or those after one; save decisions."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        after = as_key(request.GET.get("after", ""))
        if request.method == "POST":
            if not self.has_act_permission(request):
                raise PermissionDenied
            return self._decide(request, after)
        rows = self._conversions(request).review_queue()
        found = list(rows.filter(pk__gt=after or 0)[: PER_PAGE + 1])
        shown = found[:PER_PAGE]
        context = {
            "after": after,
            "skip_url": self._review_url(shown[-1].pk) if len(found) > PER_PAGE else "",
        }
        return self._response(request, [DecisionForm(row) for row in shown], context)

    def _decide(self, request: HttpRequest, after: int | None) -> HttpResponse:
        """Save the decisions of the page; show the page again if one of them has an error."""
        texts = request.POST.getlist("conversion")[:PER_PAGE]
        keys = [key for text in texts if (key := as_key(text)) is not None]
        rows = self._conversions(request).filter(pk__in=keys).order_by("pk")
        forms = [DecisionForm(row, request.POST) for row in rows]
        chosen = [form for form in forms if form.is_decided]
        current = [form for form in chosen if form.is_current]
        changed = [form.conversion.pk for form in chosen if not form.is_current]
        if not all(form.is_valid() for form in current):
            self._name_changed(request, changed)
            text = gettext("Nothing was saved. Correct the errors below.")
            self.message_user(request, text, messages.ERROR)
            again = [
                DecisionForm(form.conversion) if form.conversion.pk in changed else form
                for form in forms
                if form.conversion.needs_review
            ]
            return self._response(request, again, {"after": after})
        # Before the transactions of the rows, so that the form cannot decide a row twice.
        if self.claim_form(request):
            self.row_actions["reject"].before_many(rows)
            done: Counter[str] = Counter()
            for form in current:
                if self._save(request, form):
                    done[form.cleaned_data["decision"]] += 1
                else:
                    changed.append(form.conversion.pk)
            for name, count in done.items():
                text = self.row_actions[name].done_many % {"count": count}
                self.message_user(request, text)
            self._name_changed(request, changed)
        return HttpResponseRedirect(self._review_url(after))

    def _save(self, request: HttpRequest, form: DecisionForm) -> bool:
        """Save one decision with its history, in a transaction of its own."""
        row, data, alias = form.conversion, form.cleaned_data, db.write_alias()
        with transaction.atomic(using=alias):
            if data["decision"] == "approve" and (row.needs_amount or row.needs_payout):
                text = self.entered(row, data["amount"], data["currency"])
                if not adjustments.fill_in(row, data["amount"], data["currency"]):
                    return False
                self.log_change(request, row, text)
            reason = data["reason"] if data["decision"] == "reject" else ""
            is_done = self.perform(request, row, data["decision"], reason) is not None
            if not is_done:  # Otherwise the amount would stay.
                transaction.set_rollback(True, using=alias)
            return is_done

    def entered(self, conversion: Conversion, amount: Decimal, currency: str) -> str:
        """Return the text for the history: the amount or payout that was missing until now."""
        names = {"amount": money(amount, currency.strip().upper())}
        if conversion.needs_payout:
            return gettext("The payout is %(amount)s, entered manually.") % names
        return gettext("The amount is %(amount)s.") % names

    def _name_changed(self, request: HttpRequest, keys: Collection[int]) -> None:
        """Show a message for each conversion that has changed since the page was opened."""
        rows = self._conversions(request).select_related("decided_by").filter(pk__in=keys)
        for row in rows if keys else ():
            if row.needs_review:
                text = gettext("Not saved: %(conversion)s has changed. Check it again.")
            else:
                text = gettext("Not saved: %(conversion)s is already %(status)s (%(user)s).")
            names = {
                "conversion": f"{row.pk}, {row}",
                "status": row.get_status_display(),
                "user": row.decider,
            }
            self.message_user(request, text % names, messages.WARNING)

    def _response(
        self, request: HttpRequest, forms: Sequence[DecisionForm], context: dict[str, Any]
    ) -> HttpResponse:
        may_act = self.has_act_permission(request)
        records = _records({form.conversion.partner_id for form in forms})
        own = {
            "title": gettext("Review queue"),
            "media": self.media + _MEDIA,
            "may_act": may_act,
            "rows": [self._row(request, form, records) for form in forms],
            "review_count": _waiting(),
            "days": _DAYS,
            "start_url": self._review_url(),
            "reasons": _recent_reasons() if may_act and forms else [],
        }
        return self.page_response(request, "conversion/review", own | context)

    def _row(
        self, request: HttpRequest, form: DecisionForm, records: Mapping[int, DecisionCounts]
    ) -> dict[str, Any]:
        row = form.conversion
        partner, visitor = row.partner, row.visitor
        may_view_partner = may_view(request, Partner)
        return {
            "conversion": row,
            "url": self.row_url(row),
            "form": form,
            "payout": self.payout_and_amount(row),
            "buyer": row.user and user_display(row.user),
            "buyer_url": row.user and self._permitted_url(request, row.user),
            "time": time_from_click(row),
            "referrer": _part(visitor.referrer, "hostname"),
            "landing_page": _part(visitor.entry_point, "path"),
            "partner": partner,
            "partner_url": self._permitted_url(request, partner),
            "record": records.get(partner.pk, DecisionCounts()),
            "group": partner.group if may_view_partner else "",
            "notes": Truncator(partner.notes).chars(_NOTES) if may_view_partner else "",
        }

    def _permitted_url(self, request: HttpRequest, row: Model) -> str:
        return self.link_url(row) if may_view(request, type(row)) else ""

    def _conversions(self, request: HttpRequest) -> Any:
        rows: QuerySet[Conversion] = self.get_queryset(request)
        return rows.select_related("visitor", "partner", "user")

    def _review_url(self, after: int | None = None) -> str:
        url = reverse(REVIEW_PAGE, current_app=self.admin_site.name)
        return url if after is None else f"{url}?{urlencode({'after': after})}"


_MEDIA = forms.Media(css={"all": ["affiliations/review.css"]}, js=["affiliations/review.js"])


def _hash(row: Conversion) -> str:
    """Return a hash of what a decision depends on, to notice whether it has changed."""
    values = (row.review_reason, row.review_text, row.current_amount, row.currency,
              row.current_payout, row.payout_currency)  # fmt: skip
    return sha256(repr(values).encode()).hexdigest()[:16]


def _waiting() -> str:
    """Return the number of conversions that need review, as a text; empty if none does."""
    count = Conversion.objects.review_queue()[: _MAX_COUNT + 1].count()
    if count > _MAX_COUNT:
        return gettext("more than %(count)s") % {"count": _MAX_COUNT}
    return str(count or "")


def _records(partners: Collection[int]) -> dict[int, DecisionCounts]:
    rows = Conversion.objects.filter(
        partner__in=partners, is_test=False, **Period.past(_DAYS).within("created_on")
    )
    found: dict[int, DecisionCounts] = {}
    for key, status, count in rows.values_list("partner", "status").annotate(count=Count("*")):
        found.setdefault(key, DecisionCounts())[status] = count
    return found


def _recent_reasons() -> list[str]:
    """Return the reasons of the latest rejections of conversions that needed review."""
    rejected = Conversion.objects.filter(
        status=Status.REJECTED, review_reason__gt="", decided_via=Conversion.Via.PERSON
    )
    reasons = rejected.order_by("-decided_on").values_list("reason", flat=True)[:_REJECTIONS]
    return list(dict.fromkeys(filter(None, reasons)))[:_SUGGESTED]


def _part(url: str, name: str) -> str:
    """Return a part of a URL that a stranger has chosen; the URL itself if it has no such part."""
    try:
        return getattr(urlsplit(url), name) or url
    except ValueError:
        return url
