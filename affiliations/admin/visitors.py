"""Visitors: who came through which partner's link, and what has become of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db import models
from django.db.models import Q
from django.utils.html import format_html_join
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from affiliations.admin.credits import CreditPage
from affiliations.admin.filters import PartnerFilter, ReferredFilter
from affiliations.admin.lists import FactAdmin, marked, short
from affiliations.admin.searches import MEANT, ExactSearch, as_key, users_found
from affiliations.admin.told import told
from affiliations.models import Conversion, UncountedTrigger, Visitor

if TYPE_CHECKING:
    from django.http import HttpRequest

_LABELS = ("sub1", "sub2", "sub3", "sub4", "sub5")


class SuccessFilter(admin.SimpleListFilter):
    """By whether something was counted."""

    title = pgettext_lazy("filter", "success")
    parameter_name = "success"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> list[tuple[str, Any]]:
        """Return both."""
        return [("yes", _("something was counted")), ("no", _("nothing was counted"))]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet) -> models.QuerySet:
        """Keep the one or the other."""
        if self.value() not in ("yes", "no"):
            return queryset
        return queryset.filter(successful_on__isnull=self.value() == "no")


@admin.register(Visitor)
class VisitorAdmin(CreditPage, ExactSearch, FactAdmin):
    """Who came through which partner's link."""

    list_display = ["key", "sender", "click_id", "user", "referred_on", "successful_on", "landing"]
    list_filter = [PartnerFilter, SuccessFilter, "is_test", ReferredFilter]
    sortable_by = ["key"]
    tests = Q(is_test=True)
    search_fields = ["=id", "click_id"]
    search_help_text = _(
        "The id of the visitor, the click id, a reference, or a user by name or address, in full."
    )
    fields = [("key", "partner", "user"), ("click_id", "referred_on", "is_test"),
              ("entry_point", "referrer"), _LABELS,
              ("successful_on", "closed_on"), ("previous", "displaced")]  # fmt: skip
    readonly_fields = ["key", "referred_on", "displaced"]
    row_pages = ["credit"]
    csv_columns = ["id", "partner", "user", "referred_on", "entry_point", "referrer", "click_id",
                   "sub1", "sub2", "sub3", "sub4", "sub5", "successful_on", "closed_on",
                   "is_test"]  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> models.QuerySet:
        """Know the partner and the user along with the visitor."""
        visitors: models.QuerySet = super().get_queryset(request)
        return visitors.select_related("partner", "user")

    def meant(self, term: str) -> Q:
        """Return which are: by their id, click id or user, or by a reference, counted or not."""
        wanted = Q(click_id=term) | Q(user__in=users_found(term))
        if (key := as_key(term)) is not None:
            wanted |= Q(pk=key)
        for model in (Conversion, UncountedTrigger):
            rows = model._default_manager.filter(reference=term).order_by("-pk")
            wanted |= Q(pk__in=list(rows.values_list("visitor", flat=True)[:MEANT]))
        return wanted

    def get_fields(self, request: HttpRequest, obj: Visitor | None = None) -> Any:
        """Leave out the labels that the click had not."""
        labels = tuple(name for name in _LABELS if getattr(obj, name, ""))
        return [row for row in (labels if row is _LABELS else row for row in self.fields) if row]

    def get_panels(self, request: HttpRequest, row: Visitor) -> dict[str, Any]:
        """Tell the story, and show what was counted."""
        return told(self, request, row.pk)

    @admin.display(description=_("partner"))
    def sender(self, visitor: Visitor) -> str:
        """Return who sent the visitor, as far as there is room."""
        return marked(short(visitor.partner), is_test=visitor.is_test)

    @admin.display(description=_("entry point"))
    def landing(self, visitor: Visitor) -> str:
        """Return as much of the landing page as there is room for in a list."""
        return short(visitor.entry_point)

    @admin.display(description=_("displaced by"))
    def displaced(self, visitor: Visitor) -> str:
        """Return the referrals that took the place of this one."""
        others = visitor.displaced_by.order_by("pk")[:20]
        return format_html_join(", ", "{}", ((self.link(other),) for other in others)) or "-"
