"""Callbacks and their attempts, and sending a callback again."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from affiliations.admin.actions import RowAction, RowActionsMixin, bulk_action, row_action
from affiliations.admin.base import (
    FactAdmin,
    ReadOnlyMixin,
    badge,
    callback_badge,
    column,
    flag_column,
    link_column,
    may_view,
    short,
)
from affiliations.admin.filters import (
    AttemptTriggerFilter,
    CallbackPartnerFilter,
    CallbackTriggerFilter,
    DatesFilter,
    GaveUpFilter,
    PartnerFilter,
    StartedFilter,
    SubscriptionFilter,
)
from affiliations.admin.pages import ReasonForm
from affiliations.admin.search import ExactSearch, Term, callbacks_matching, latest
from affiliations.callbacks import outbox
from affiliations.conf import settings
from affiliations.models import Callback, CallbackAttempt, Conversion, Visitor

if TYPE_CHECKING:
    from django.contrib.admin.options import InlineModelAdmin
    from django.http import HttpRequest

Status = Callback.Status

#: ``possible`` is about the callback itself. An action is also refused while the callback is being
#: sent, and a callback is not sent again if its subscription is suspended, see ``refusal()``.
_RESEND = RowAction(
    call=lambda row, reason, user: row if outbox.resend(row) else None,
    possible=outbox.RESENDABLE,
    title=_("Send again"),
    done=_("The callback is being sent again."),
    done_many=ngettext_lazy(
        "Sending %(count)s callback again.", "Sending %(count)s callbacks again.", "count"
    ),
    explanation=_(
        "The same URL is sent again with the same callback id. Earlier attempts are kept."
    ),
)
_RESEND_ANEW = RowAction(
    call=lambda row, reason, user: None if row.conversion is None else outbox.resend_anew(row),
    possible=Q(conversion__isnull=False) & ~Q(subscription__callback_url=""),
    title=_("Send with the current URL"),
    done=_("A new callback is being sent."),
    done_many=ngettext_lazy(
        "Sending %(count)s new callback.", "Sending %(count)s new callbacks.", "count"
    ),
    explanation=_(
        "A new callback with its own id is sent to the subscription’s current callback URL. A "
        "partner who has already accepted the old callback receives the event twice."
    ),
)
_CANCEL = RowAction(
    call=lambda row, reason, user: row if outbox.cancel(row, reason) else None,
    possible=Q(status=Status.QUEUED),
    title=_("Cancel"),
    done=_("The callback was cancelled."),
    done_many=ngettext_lazy(
        "Cancelled %(count)s callback.", "Cancelled %(count)s callbacks.", "count"
    ),
    form=ReasonForm,
    explanation=_(
        "The callback will not be sent. An attempt that is already in progress still delivers it "
        "if the partner accepts it."
    ),
)


class CallbackAttemptInline(ReadOnlyMixin, admin.TabularInline):
    """The attempts on the page of their callback, for all users who may view the callback."""

    model = CallbackAttempt
    fields = readonly_fields = (
        "started_on",
        "duration_ms",
        "status_code",
        "error",
        "message",
        "response_excerpt",
    )
    ordering = ["-number"]
    extra = 0
    show_change_link = True

    def has_view_permission(self, request: HttpRequest, obj: Callback | None = None) -> bool:
        return True


@admin.register(Callback)
class CallbackAdmin(RowActionsMixin, ExactSearch, FactAdmin):
    list_display = ["pk_display", "status_display", "partner_display", "trigger", "event",
                    "conversion_link", "attempt_count", "created_on", "delivered_on"]  # fmt: skip
    list_filter = [PartnerFilter, CallbackTriggerFilter, SubscriptionFilter, "status",
                   GaveUpFilter, "event", "is_test", DatesFilter]  # fmt: skip
    list_select_related = ["partner", "subscription", "conversion__visitor"]
    sortable_by = ["pk_display"]
    search_fields = ["webhook_id"]
    search_help_text = _(
        "Callback id, webhook id, reference, click id, visitor id, username or exact e-mail."
    )
    fields = [("pk_display", "status_display", "reason_display"),
              ("partner", "subscription", "event"), ("visitor_link", "conversion"), "method",
              "url", "body", ("created_on", "delivered_on"), "next_attempt_on",
              ("attempt_count", "resend_count", "version", "webhook_id")]  # fmt: skip
    readonly_fields = ["pk_display", "visitor_link", "status_display", "reason_display"]
    inlines = [CallbackAttemptInline]
    row_actions = {"resend": _RESEND, "resend_anew": _RESEND_ANEW, "cancel": _CANCEL}
    object_views = ["resend", "resend_anew", "cancel"]
    skipped_many = ngettext_lazy(
        "%(count)s callback was skipped, because its status does not allow this action.",
        "%(count)s callbacks were skipped, because their status does not allow this action.",
        "count",
    )
    actions = ["resend_selected", "resend_selected_anew", "cancel_selected"]
    csv_columns = ["id", "event", "partner", "subscription", "reference", "method", "url",
                   "body", "status", "reason_display", "attempt_count", "created_on",
                   "delivered_on", "webhook_id"]  # fmt: skip

    def search(self, term: Term) -> Q:
        return callbacks_matching(term)

    def get_fields(self, request: HttpRequest, obj: Callback | None = None) -> Any:
        """Leave out the time of the next attempt if there will be none."""
        is_due = obj is not None and obj.status == Status.QUEUED
        return [
            row for row in super().get_fields(request, obj) if is_due or row != "next_attempt_on"
        ]

    def get_inline_instances(
        self, request: HttpRequest, obj: Callback | None = None
    ) -> list[InlineModelAdmin]:
        inlines: list[InlineModelAdmin] = super().get_inline_instances(request, obj)
        for inline in inlines:
            inline.show_change_link = may_view(request, CallbackAttempt)
        return inlines

    def offers(self, name: str, row: Callback) -> bool:
        if name == "cancel":
            return row.status == Status.QUEUED
        return row.event != Callback.Event.TEST

    reason_display = column("reason_display", _("reason"), label=str)
    partner_display = column("partner", _("partner"))
    trigger = column("subscription", _("trigger"))
    conversion_link = link_column(
        "conversion",
        Conversion,
        _("conversion"),
        label=lambda conversion: short(conversion.reference or conversion.pk),
    )
    visitor_link = link_column("conversion.visitor", Visitor, _("visitor"))
    reference = column("conversion.reference", _("reference"), label=str)

    @admin.display(description=_("status"))
    def status_display(self, callback: Callback) -> str:
        return callback_badge(callback)

    resend = row_action("resend", _RESEND)
    resend_anew = row_action("resend_anew", _RESEND_ANEW)
    cancel = row_action("cancel", _CANCEL)
    resend_selected = bulk_action("resend", _("Send selected %(verbose_name_plural)s again"))
    resend_selected_anew = bulk_action(
        "resend_anew", _("Send selected %(verbose_name_plural)s with the current URL")
    )
    cancel_selected = bulk_action("cancel", _("Cancel selected %(verbose_name_plural)s"))

    def perform(self, request: HttpRequest, row: Any, name: str, reason: str) -> Any:
        sent = super().perform(request, row, name, reason)
        if sent is not None and sent is not row:
            text = gettext("Sent instead of callback %(callback)s.")
            self.log_addition(request, sent, text % {"callback": row.pk})
        return sent

    def report_done(
        self, request: HttpRequest, row: models.Model, result: Callback, action: RowAction
    ) -> None:
        if result is row or result.status != Status.CANCELLED:
            super().report_done(request, row, result, action)
        else:
            text = gettext("The new callback was cancelled as well: %(reason)s")
            reason = {"reason": result.reason_display}
            self.message_user(request, text % reason, messages.WARNING)

    def facts(self, rows: Sequence[Callback]) -> Sequence[tuple[Any, str]]:
        """Return facts about callbacks, such as their partners and suspended subscriptions."""
        suspended = {str(row.subscription) for row in rows if row.subscription.is_suspended}
        stopped = {str(row.partner) for row in rows if row.partner.is_stopped}
        found = [
            (_("Partners"), ", ".join(sorted({str(row.partner) for row in rows}))),
            (_("Already accepted"), sum(row.status == Status.DELIVERED for row in rows)),
            (_("Callbacks suspended"), ", ".join(sorted(suspended))),
            (_("Stopped for fraud"), ", ".join(sorted(stopped))),
            (_("Tests"), sum(row.is_test for row in rows)),
        ]
        return [(label, short(value)) for label, value in found if value]

    def refusal(self, row: Callback, name: str) -> str:
        if name == "cancel":
            return gettext("The callback is no longer waiting to be sent, so it was not cancelled.")
        if not settings.send_callbacks:
            return gettext(
                "This site sends no callbacks, because AFFILIATE_SEND_CALLBACKS is False."
            )
        if row.event == Callback.Event.TEST:
            return gettext(
                "A test callback cannot be sent again. Send a new one from the subscription’s page."
            )
        if row.subscription.is_suspended:
            return gettext("Callbacks are suspended. Resume them on the subscription’s page first.")
        if name == "resend_anew":
            return gettext(
                "This subscription has no callback URL. Enter one in the subscription to send "
                "callbacks."
            )
        if row.status == Status.CANCELLED:
            return gettext("The callback was cancelled. Send it with the current URL instead.")
        if not row.url:
            return gettext(
                "The callback cannot be sent, because its URL was erased with the user’s "
                "personal data."
            )
        return gettext(
            "Nothing was done, because the callback is being sent right now. Try again in a minute."
        )


@admin.register(CallbackAttempt)
class CallbackAttemptAdmin(ExactSearch, FactAdmin):
    list_display = ["pk_display", "callback_link", "partner_display", "number", "error_display",
                    "status_code", "duration_ms", "manual_display", "started_on"]  # fmt: skip
    list_filter = [CallbackPartnerFilter, AttemptTriggerFilter, "error", "is_test",
                   StartedFilter]  # fmt: skip
    list_select_related = ["callback__partner"]
    sortable_by = ["pk_display"]
    search_fields = ["callback__webhook_id"]
    search_help_text = _(
        "Attempt id, callback id, webhook id, reference, click id, visitor id, username or exact "
        "e-mail."
    )
    fields = ["callback_link", "partner", "number", "manual_display", "started_on",
              "duration_ms", "status_code", "error", "message",
              "response_excerpt"]  # fmt: skip
    readonly_fields = ["callback_link", "partner", "manual_display"]
    csv_columns = ["id", "callback_id", "partner", "number", "manual", "started_on", "duration_ms",
                   "status_code", "error", "message", "response_excerpt"]  # fmt: skip

    def search(self, term: Term) -> Q:
        callbacks = latest(Callback.objects.filter(callbacks_matching(term)))
        return term.or_key(Q(callback__in=callbacks))

    callback_link = link_column("callback", Callback, _("callback"), label=attrgetter("pk"))
    partner_display = column("callback.partner", _("partner"))
    partner = column("callback.partner", _("partner"), label=str)
    manual_display = flag_column("manual", _("sent manually"), _("Yes"))

    @admin.display(description=_("result"))
    def error_display(self, attempt: CallbackAttempt) -> str:
        """Return the error, or "accepted"."""
        if attempt.error:
            return badge("rejected", attempt.get_error_display())
        return badge("delivered", gettext("accepted"))
