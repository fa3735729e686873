"""Attempts: how each try at sending a callback ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import admin
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations.admin.filters import (
    AttemptTriggerFilter,
    CallbackPartnerFilter,
    StartedFilter,
    TestFilter,
)
from affiliations.admin.lists import FactAdmin, badge, short
from affiliations.admin.searches import MEANT, ExactSearch, as_key, callbacks_meant
from affiliations.models import Callback, CallbackAttempt

if TYPE_CHECKING:
    from django.http import HttpRequest


class CallbackAttemptInline(admin.TabularInline):
    """The attempts on the page of their callback."""

    model = CallbackAttempt
    fields = readonly_fields = (
        "started_on",
        "duration_ms",
        "status_code",
        "error",
        "message",
        "response_excerpt",
    )
    ordering = ["number"]
    extra = 0
    can_delete = False
    show_change_link = True

    def has_add_permission(self, request: HttpRequest, obj: Callback | None = None) -> bool:
        """Refuse: attempts come about by sending."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Callback | None = None) -> bool:
        """Refuse: an attempt is a fact."""
        return False

    def has_view_permission(self, request: HttpRequest, obj: Callback | None = None) -> bool:
        """Show them to whoever may see the callback."""
        return True


@admin.register(CallbackAttempt)
class CallbackAttemptAdmin(ExactSearch, FactAdmin):
    """How each attempt at a callback ended, over all of them."""

    list_display = ["key", "of", "who", "number", "ended", "status_code", "duration_ms",
                    "manual", "started_on"]  # fmt: skip
    list_filter = [CallbackPartnerFilter, AttemptTriggerFilter, "error", TestFilter, StartedFilter]
    sortable_by = ["key"]
    search_fields = ["callback__webhook_id"]
    search_help_text = _(
        "The id of the attempt or of its callback, its webhook id, a reference, a click id, the id "
        "of the visitor, or a user by name or address, in full."
    )
    tests = Q(callback__event=Callback.Event.TEST) | Q(callback__conversion__is_test=True)
    plain = {"of": (Callback, "callback_id")}
    fields = ["of", "partner", "number", "manual", "started_on", "duration_ms", "status_code",
              "error", "message", "response_excerpt"]  # fmt: skip
    readonly_fields = ["of", "partner"]
    csv_columns = ["id", "callback_id", "partner", "number", "manual", "started_on", "duration_ms",
                   "status_code", "error", "message", "response_excerpt"]  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> models.QuerySet:
        """Know along with an attempt who was called."""
        attempts: models.QuerySet = super().get_queryset(request)
        return attempts.select_related("callback__partner")

    def meant(self, term: str) -> Q:
        """Return which are: by their id, or by the callback that they tried to send."""
        found = Callback.objects.filter(callbacks_meant(term)).order_by("-pk")
        wanted = Q(callback__in=list(found.values_list("pk", flat=True)[:MEANT]))
        if (key := as_key(term)) is not None:
            wanted |= Q(pk=key)
        return wanted

    @admin.display(description=_("callback"))
    def of(self, attempt: CallbackAttempt) -> str:
        """Return the callback."""
        return self.link(attempt.callback, attempt.callback_id)

    @admin.display(description=_("callback"))
    def callback_id(self, attempt: CallbackAttempt) -> int:
        """Return the id of the callback."""
        return attempt.callback_id

    @admin.display(description=_("partner"))
    def who(self, attempt: CallbackAttempt) -> str:
        """Return who was called, as far as there is room."""
        return short(attempt.callback.partner)

    @admin.display(description=_("partner"))
    def partner(self, attempt: CallbackAttempt) -> str:
        """Return who was called."""
        return str(attempt.callback.partner)

    @admin.display(description=_("result"))
    def ended(self, attempt: CallbackAttempt) -> str:
        """Return whether the partner has taken it, or else why not."""
        if attempt.error:
            return badge("rejected", attempt.get_error_display())
        return badge("delivered", gettext("taken"))
