"""Visitors, and the timeline on the pages of visitors and conversions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.db import models
from django.db.models import Q
from django.http import HttpResponseRedirect
from django.utils.html import format_html_join
from django.utils.timesince import timesince
from django.utils.translation import gettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from affiliations import timeline
from affiliations.admin.base import (
    TONES,
    FactAdmin,
    UserColumnsMixin,
    callback_badge,
    column,
    marked,
    may_view,
    short,
    test_display,
)
from affiliations.admin.filters import (
    PartnerFilter,
    ReferredFilter,
)
from affiliations.admin.manual import CreditPage
from affiliations.admin.pages import ObjectViewsMixin, ReasonForm, object_view
from affiliations.admin.search import ExactSearch, Term, latest, users_found
from affiliations.models import (
    Callback,
    CallbackAttempt,
    Conversion,
    RecentFilteredClick,
    UncreditedTrigger,
    Visitor,
)
from affiliations.models.visitor import SUB_IDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from django.http import HttpRequest, HttpResponse

    from affiliations.timeline import Entry

_CALLBACKS = (Callback, CallbackAttempt)
#: Characters that change the direction of text; a click id or a reference may contain them.
_DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class SuccessFilter(admin.SimpleListFilter):
    """By whether the visitor has a conversion."""

    title = pgettext_lazy("filter", "conversion")
    parameter_name = "success"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> list[tuple[str, Any]]:
        return [("yes", _("with a conversion")), ("no", _("without a conversion"))]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet) -> models.QuerySet:
        if self.value() not in ("yes", "no"):
            return queryset
        return queryset.filter(successful_on__isnull=self.value() == "no")


@admin.register(Visitor)
class VisitorAdmin(UserColumnsMixin, CreditPage, ExactSearch, FactAdmin):
    list_display = ["pk_display", "partner_display", "source", "click_id", "user_start",
                    "referred_on", "successful_on", "entry_point_start"]  # fmt: skip
    list_filter = [PartnerFilter, SuccessFilter, "source", "is_test", ReferredFilter]
    list_select_related = ["partner", "user"]
    sortable_by = ["pk_display"]
    search_fields = ["=id", "click_id"]
    search_help_text = _("Visitor id, click id, reference, username or exact e-mail.")
    fields = [("pk_display", "partner", "user_link"), ("click_id", "referred_on", "test_display"),
              ("source", "entry_point", "referrer"), SUB_IDS,
              ("successful_on", "closed_on", "stopped_on"),
              ("previous", "displaced_by")]  # fmt: skip
    readonly_fields = ["pk_display", "user_link", "referred_on", "stopped_on", "test_display",
                       "displaced_by"]  # fmt: skip
    object_views = ["credit", "stop_tracking"]
    csv_columns = ["id", "partner", "user_display", "referred_on", "entry_point", "referrer",
                   "click_id", *SUB_IDS, "successful_on", "closed_on", "is_test",
                   "source"]  # fmt: skip

    test_display = test_display
    entry_point_start = column("entry_point", _("landing page"))

    def search(self, term: Term) -> Q:
        matching = Q(click_id=term.text) | Q(user__in=users_found(term.text))
        for model in (Conversion, UncreditedTrigger):
            rows = model._default_manager.filter(reference__in=term.references)
            matching |= Q(pk__in=latest(rows, "visitor"))
        return term.or_key(matching)

    def get_fields(self, request: HttpRequest, obj: Visitor | None = None) -> Any:
        given = tuple(name for name in SUB_IDS if getattr(obj, name, ""))
        return [row for row in (given if row is SUB_IDS else row for row in self.fields) if row]

    def get_panels(self, request: HttpRequest, row: Visitor) -> dict[str, Any]:
        return timeline_context(self, request, row.pk)

    def offers(self, name: str, row: Visitor) -> bool:
        return super().offers(name, row) and (name != "stop_tracking" or row.stopped_on is None)

    @object_view(_("Stop tracking this visitor"), permission="act")
    def stop_tracking(self, request: HttpRequest, visitor: Visitor) -> HttpResponse:
        form = ReasonForm(
            request.POST if request.method == "POST" else None,
            hint=_("Kept in the history. The partner does not see it."),
        )
        if not form.is_valid():
            return self.row_response(request, visitor, "stop_tracking", {"form": form})
        if visitor.stop():
            text = gettext("Stopped tracking this visitor: %(reason)s") % form.cleaned_data
            return self.done(request, visitor, text)
        text = gettext("This visitor was already stopped.")
        self.message_user(request, text, messages.WARNING)
        return HttpResponseRedirect(self.row_url(visitor))

    @admin.display(description=_("partner"))
    def partner_display(self, visitor: Visitor) -> str:
        return marked(short(visitor.partner), is_test=visitor.is_test)

    @admin.display(description=_("replaced by"))
    def displaced_by(self, visitor: Visitor) -> str:
        others = visitor.displaced_by.order_by("pk")[:20]
        return format_html_join(", ", "{}", ((self.link(other),) for other in others)) or "-"


def timeline_context(
    model_admin: ObjectViewsMixin,
    request: HttpRequest,
    visitor_id: int,
    conversion_id: int | None = None,
) -> dict[str, Any]:
    """
    Return the timeline of a visitor for a template, and the conversions and callbacks in it.

    With ``conversion_id`` the callbacks are those of this conversion. Callbacks are left out if the
    user may not view them; there is no link to a row that the user may not view.
    """
    shows_callbacks, shows_conversions = may_view(request, Callback), may_view(request, Conversion)
    hidden = () if shows_callbacks else _CALLBACKS
    (built,) = timeline.build([visitor_id])
    conversions = built.visitor.conversions.all()
    return {
        "timeline": _rows(model_admin, request, built.entries, hidden),
        "visitor_conversions": [
            (
                conversion,
                model_admin.link_url(conversion),
                TONES[conversion.status],
                time_from_click(conversion),
            )
            for conversion in conversions
            if shows_conversions and conversion.pk != conversion_id
        ],
        "callbacks": [
            (callback, model_admin.link_url(callback), callback_badge(callback))
            for conversion in conversions
            for callback in conversion.callbacks.all()
            if shows_callbacks and conversion_id in (None, conversion.pk)
        ],
    }


def shown_entries(
    model_admin: ObjectViewsMixin, request: HttpRequest, entries: Iterable[Entry]
) -> list[Any]:
    """Return entries of several visitors for the template: those whose rows the user may view."""
    kinds: tuple[type[models.Model], ...] = (Visitor, Conversion, RecentFilteredClick)
    hidden = [kind for kind in kinds if not may_view(request, kind)]
    if not may_view(request, Callback):
        hidden += _CALLBACKS
    return _rows(model_admin, request, entries, hidden)


def _rows(
    model_admin: ObjectViewsMixin,
    request: HttpRequest,
    entries: Iterable[Entry],
    hidden: Iterable[type[models.Model]],
) -> list[Any]:
    return [
        (
            entry.on,
            _DIRECTION.sub("", entry.text),
            entry.cure,
            _url(model_admin, request, entry.about),
        )
        for entry in entries
        if not isinstance(entry.about, tuple(hidden))
    ]


def time_from_click(conversion: Conversion) -> str:
    start, end = conversion.visitor.referred_on, conversion.created_on
    if (end - start).total_seconds() < 60:
        return gettext("less than a minute")
    return timesince(start, end)


def _url(model_admin: ObjectViewsMixin, request: HttpRequest, row: models.Model) -> str:
    """Return the URL of the row of an entry; for an attempt, its place on the callback's page."""
    if isinstance(row, CallbackAttempt):
        url = model_admin.link_url(row.callback)
        return f"{url}#attempts-group" if url else ""
    return model_admin.link_url(row) if may_view(request, type(row)) else ""
