"""Callbacks: what partners were told, and how it is sent again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.db import models
from django.db.models import Q
from django.http import HttpResponseRedirect
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from affiliations.admin.attempts import CallbackAttemptInline
from affiliations.admin.decisions import ReasonForm, ask_about_all
from affiliations.admin.filters import CallbackTriggerFilter, DatesFilter, PartnerFilter, TestFilter
from affiliations.admin.lists import FactAdmin, badge, short
from affiliations.admin.pages import may_view, row_page
from affiliations.admin.searches import ExactSearch, callbacks_meant
from affiliations.callbacks import outbox, wording
from affiliations.models import Callback, CallbackAttempt, Conversion, Visitor

if TYPE_CHECKING:
    from django.contrib.admin.options import InlineModelAdmin
    from django.http import HttpRequest, HttpResponse

Status = Callback.Status

#: What each page is called, what it says that it does, and what it says that it has done.
_WORDS: dict[str, tuple[Any, Any, Any]] = {
    "resend": (
        _("Send again"),
        _("The same URL once more, under the same id. The history stays."),
        _("It goes out again now."),
    ),
    "resend_anew": (
        _("Send with the current URL"),
        _(
            "A new callback beside this one, with the subscription’s callback URL of today and an "
            "id of its own. A partner who has taken the old one hears of it twice."
        ),
        _("A new callback goes out now."),
    ),
    "cancel": (
        _("Cancel"),
        _(
            "It is not sent. What is on its way at this moment still counts if the partner takes "
            "it."
        ),
        _("It is cancelled."),
    ),
}

#: With which callbacks each can be done; with one that is being sent now, a minute later.
_ABLE = {
    "resend": ~Q(event=Callback.Event.TEST)
    & ~Q(url="")
    & (
        Q(status__in=(Status.QUEUED, Status.DELIVERED, Status.EXHAUSTED))
        | Q(status=Status.CANCELLED, reason=wording.IS_TEST)
    ),
    "resend_anew": Q(conversion__isnull=False) & ~Q(subscription__callback_url=""),
    "cancel": Q(status__in=(Status.QUEUED, Status.HELD)),
}


@admin.register(Callback)
class CallbackAdmin(ExactSearch, FactAdmin):
    """What partners were told, and how each attempt at it ended."""

    list_display = ["key", "state", "who", "trigger", "event", "of", "attempt_count", "created_on",
                    "delivered_on"]  # fmt: skip
    list_filter = [PartnerFilter, CallbackTriggerFilter, "status", "event", TestFilter,
                   DatesFilter]  # fmt: skip
    sortable_by = ["key"]
    tests = Q(event=Callback.Event.TEST) | Q(conversion__is_test=True)
    plain = {"of": (Conversion, "tells_of"), "visitor": (Visitor, "visitor_id")}
    search_fields = ["webhook_id"]
    search_help_text = _(
        "The id of the callback or its webhook id, a reference, a click id, the id of the visitor, "
        "or a user by name or address, in full."
    )
    fields = [("key", "state", "why"), ("partner", "subscription", "event"),
              ("visitor", "conversion"), "url", ("created_on", "delivered_on"), "next_attempt_on",
              ("attempt_count", "resend_count", "edition", "webhook_id")]  # fmt: skip
    readonly_fields = ["key", "visitor", "state", "why"]
    inlines = [CallbackAttemptInline]
    row_pages = ["resend", "resend_anew", "cancel"]
    actions = ["resend_selected", "resend_selected_anew", "cancel_selected"]
    csv_columns = ["id", "event", "partner", "subscription", "reference", "url", "status", "why",
                   "attempt_count", "created_on", "delivered_on", "webhook_id"]  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> models.QuerySet:
        """Know along with a callback what sending it needs."""
        rows: models.QuerySet = super().get_queryset(request)
        return rows.select_related("partner", "subscription", "conversion__visitor")

    def meant(self, term: str) -> Q:
        """Return which are, as everywhere."""
        return callbacks_meant(term)

    def get_fields(self, request: HttpRequest, obj: Callback | None = None) -> Any:
        """Leave out the next attempt where there is none to come."""
        is_due = obj is not None and obj.status == Status.QUEUED
        return [
            row for row in super().get_fields(request, obj) if is_due or row != "next_attempt_on"
        ]

    def get_inline_instances(
        self, request: HttpRequest, obj: Callback | None = None
    ) -> list[InlineModelAdmin]:
        """Lead from each attempt to its page, where somebody may go there."""
        inlines: list[InlineModelAdmin] = super().get_inline_instances(request, obj)
        for inline in inlines:
            inline.show_change_link = may_view(request, CallbackAttempt)
        return inlines

    def offers(self, name: str, row: Callback) -> bool:
        """Offer what can be done with it as it stands."""
        is_test = row.event == Callback.Event.TEST
        waits = row.status in (Status.QUEUED, Status.HELD)
        return waits if name == "cancel" else not is_test

    @admin.display(description=_("status"))
    def state(self, callback: Callback) -> str:
        """Return how far it has come, in its colour."""
        return badge(callback.status, callback.get_status_display())

    @admin.display(description=_("reason"))
    def why(self, callback: Callback) -> str:
        """Return why it was cancelled, in the reader's language."""
        return gettext(callback.reason) if callback.reason else ""

    @admin.display(description=_("partner"))
    def who(self, callback: Callback) -> str:
        """Return who is called, as far as there is room."""
        return short(callback.partner)

    @admin.display(description=_("trigger"))
    def trigger(self, callback: Callback) -> str:
        """Return what the subscription is to, as far as there is room."""
        return short(callback.subscription)

    @admin.display(description=_("tells of"))
    def of(self, callback: Callback) -> str:
        """Return the conversion, by its reference where it has one."""
        words = self.tells_of(callback)
        return self.link(callback.conversion, words) if callback.conversion else words

    @admin.display(description=_("tells of"))
    def tells_of(self, callback: Callback) -> str:
        """Return the same in words alone."""
        return short(callback.conversion or "-")

    @admin.display(description=_("visitor"))
    def visitor(self, callback: Callback) -> str:
        """Return who was credited."""
        return self.link(callback.conversion.visitor) if callback.conversion else "-"

    @admin.display(description=_("visitor"))
    def visitor_id(self, callback: Callback) -> str:
        """Return what callbacks call the visitor."""
        return str(callback.conversion.visitor_id) if callback.conversion else "-"

    @admin.display(description=_("reference"))
    def reference(self, callback: Callback) -> str:
        """Return the reference of the conversion."""
        return callback.conversion.reference if callback.conversion else ""

    @row_page(_WORDS["resend"][0], permission="act")
    def resend(self, request: HttpRequest, callback: Callback) -> HttpResponse:
        """Send it once more."""
        return self._ask(request, callback, "resend", "")

    @row_page(_WORDS["resend_anew"][0], permission="act")
    def resend_anew(self, request: HttpRequest, callback: Callback) -> HttpResponse:
        """Send what the subscription says today."""
        return self._ask(request, callback, "resend_anew", "")

    @row_page(_WORDS["cancel"][0], permission="act")
    def cancel(self, request: HttpRequest, callback: Callback) -> HttpResponse:
        """Take back what is waiting, and say why."""
        form = ReasonForm(request.POST if request.method == "POST" else None)
        reason = form.cleaned_data["reason"] if form.is_valid() else ""
        return self._ask(request, callback, "cancel", reason, form)

    @admin.action(description=_("Send selected %(verbose_name_plural)s again"), permissions=["act"])
    def resend_selected(
        self, request: HttpRequest, queryset: models.QuerySet
    ) -> HttpResponse | None:
        """Ask once, then send each again."""
        return self._ask_about_all(request, queryset, "resend")

    @admin.action(
        description=_("Send selected %(verbose_name_plural)s with the current URL"),
        permissions=["act"],
    )
    def resend_selected_anew(
        self, request: HttpRequest, queryset: models.QuerySet
    ) -> HttpResponse | None:
        """Ask once, then send each anew."""
        return self._ask_about_all(request, queryset, "resend_anew")

    @admin.action(description=_("Cancel selected %(verbose_name_plural)s"), permissions=["act"])
    def cancel_selected(
        self, request: HttpRequest, queryset: models.QuerySet
    ) -> HttpResponse | None:
        """Ask why, then cancel each."""
        return self._ask_about_all(request, queryset, "cancel")

    def _ask(
        self,
        request: HttpRequest,
        callback: Callback,
        name: str,
        reason: str,
        form: forms.Form | None = None,
    ) -> HttpResponse:
        title, explanation, done = _WORDS[name]
        if request.method != "POST" or (form is not None and not form.is_valid()):
            context = {"title": title, "explanation": explanation, "form": form}
            return self.row_response(request, callback, "send", context)
        anew = self._do(request, callback, name, reason)
        if anew is None:
            self.message_user(request, _refusal(callback, name), messages.WARNING)
        elif anew is not callback and anew.status == Status.CANCELLED:
            text = gettext("The new callback is cancelled too: %(reason)s")
            reason = gettext(anew.reason)
            self.message_user(request, text % {"reason": reason}, messages.WARNING)
        else:
            self.message_user(request, done)
        return HttpResponseRedirect(self.row_url(anew or callback))

    def _ask_about_all(
        self, request: HttpRequest, rows: models.QuerySet, name: str
    ) -> HttpResponse | None:
        def do(chosen: models.QuerySet, data: dict[str, Any]) -> None:
            reason = data.get("reason", "")
            done = [self._do(request, one, name, reason) for one in chosen.order_by("pk")]
            count = sum(one is not None for one in done)
            said = ngettext("%(count)s callback: %(done)s", "%(count)s callbacks: %(done)s", count)
            self.message_user(request, said % {"count": count, "done": _WORDS[name][2]})
            if left := len(done) - count:
                said = ngettext(
                    "%(count)s stays as it is: as it stands, that cannot be done.",
                    "%(count)s stay as they are: as they stand, that cannot be done.",
                    left,
                )
                self.message_user(request, said % {"count": left}, messages.WARNING)

        form_class = ReasonForm if name == "cancel" else forms.Form
        able = rows.filter(_ABLE[name])
        return ask_about_all(self, request, rows, able, _WORDS[name][0], form_class, do)

    def _do(
        self, request: HttpRequest, callback: Callback, name: str, reason: str
    ) -> Callback | None:
        """Do it and write it down; return the callback that goes out, ``None`` where none does."""
        done: Callback | None = callback
        if name == "resend":
            done = callback if outbox.resend(callback) else None
        elif name == "cancel":
            done = callback if outbox.cancel(callback, reason) else None
        else:
            done = None if callback.conversion is None else outbox.resend_anew(callback)
        if done is not None:
            self.log_change(request, callback, f"{_WORDS[name][2]} {reason}".strip())
        if done is not None and done is not callback:
            text = gettext("Sent in place of callback %(callback)s.")
            self.log_addition(request, done, text % {"callback": callback.pk})
        return done


def _refusal(callback: Callback, name: str) -> str:
    """Say why a callback stays as it is, and what to do about it."""
    if name == "cancel":
        return gettext("Nothing waits to be sent any more. Nothing was changed.")
    if callback.event == Callback.Event.TEST:
        return gettext("This was a test. Send another from the subscription’s page.")
    if callback.subscription.callbacks_suspended_on is not None:
        return gettext("Callbacks are suspended. Resume them on the subscription’s page first.")
    if name == "resend_anew":
        return gettext("This subscription has no callback URL, so nobody is called.")
    if callback.status == Status.CANCELLED:
        return gettext("It was cancelled. Send it with the current URL instead.")
    if not callback.url:
        return gettext("Its URL is blanked, since the person behind it is to be forgotten.")
    return gettext("It is being sent at this moment. Look again in a minute.")
