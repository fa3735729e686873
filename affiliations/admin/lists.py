"""What the lists of the Admin share: they answer whatever is asked, and facts stay facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.auth import get_permission_codename
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import DataError, models
from django.db.models import Q
from django.http import HttpResponseRedirect
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.text import Truncator, capfirst
from django.utils.translation import gettext

from affiliations import batches, exports
from affiliations.admin.filters import IS_TEST
from affiliations.admin.pages import TONES, RowPagesMixin, may_view

if TYPE_CHECKING:
    from django.contrib.admin.views.main import ChangeList
    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase

#: How databases fail at what was never a value of theirs: a NUL, a huge number, text for a number.
_UNANSWERABLE = (DataError, OverflowError, ValueError)

#: A list counts no further: to count ten million rows takes longer than to read a page.
COUNTED = 10_000
#: So many characters of a text are shown in a column.
_SHORT = 40


class CountingPaginator(Paginator):
    """Pages of a list that may be very long; it ends where the counting does."""

    @cached_property
    def count(self) -> int:
        """Return how many rows there are, as far as they are counted."""
        rows: Any = self.object_list
        if isinstance(rows, models.QuerySet):
            return rows.order_by()[: COUNTED + 1].count()
        return len(rows)

    @property
    def is_capped(self) -> bool:
        """Tell whether there are more."""
        return self.count > COUNTED


def badge(value: str, label: Any) -> str:
    """Show a status so that it is told from others at a glance, and not by colour alone."""
    return format_html('<span class="aff-badge aff-{}">{}</span>', TONES.get(value, "quiet"), label)


def marked(text: str, *, is_test: bool) -> str:
    """Mark in a list what is a test, and in no number."""
    return format_html("{} {}", text, badge("test", gettext("test"))) if is_test else text


def short(text: object) -> str:
    """Return as much of a text as there is room for in a list."""
    return Truncator(str(text)).chars(_SHORT)


class ListAdmin(admin.ModelAdmin):
    """Something whose list answers whatever stands in its address."""

    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = CountingPaginator

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        """Send who asks for what no database can answer back to the whole list, as Django does."""
        try:
            return super().get_changelist_instance(request)
        except _UNANSWERABLE as error:
            raise IncorrectLookupParameters(error) from error

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet, search_term: str
    ) -> tuple[models.QuerySet, bool]:
        """Search without NULs, which lists refuse and an autocomplete of the host does not."""
        return super().get_search_results(request, queryset, search_term.replace("\0", ""))

    def response_action(
        self, request: HttpRequest, queryset: models.QuerySet, *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        """Run the action, unless it is to run on what can be the key of no row."""
        try:
            queryset.filter(pk__in=request.POST.getlist(ACTION_CHECKBOX_NAME)).exists()
        except _UNANSWERABLE:
            return None
        return super().response_action(request, queryset, *args, **kwargs)


class FactAdmin(RowPagesMixin, ListAdmin):
    """Something that has happened: to be looked at, never to be made or changed by hand."""

    #: What a CSV file of the list has in its columns: the names of fields and of methods.
    csv_columns: Sequence[str] = ()
    #: Which rows are tests, where some may be.
    tests: Q | None = None
    #: By the name of what leads to a row of another model: that model, and the name of what is
    #: shown to those who may not look at it.
    plain: Mapping[str, tuple[type[models.Model], str]] = {}
    ordering = ["-pk"]

    def link(self, row: models.Model, text: object = None) -> str:
        """Return a link to a row, or its text alone where this site knows no such rows."""
        url = self.link_url(row)
        return format_html('<a href="{}">{}</a>', url, text or row) if url else str(text or row)

    @admin.display(description="ID", ordering="pk")
    def key(self, row: models.Model) -> str:
        """Return the key, in which no language parts the thousands."""
        return str(row.pk)

    def get_list_display(self, request: HttpRequest) -> Any:
        """Lead nowhere where somebody may not go."""
        return [self._open_to(request, name) for name in super().get_list_display(request)]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Lead nowhere where somebody may not go."""
        rows = [
            [self._open_to(request, name) for name in ([row] if isinstance(row, str) else row)]
            for row in self.get_fields(request, obj)
        ]
        return [(None, {"fields": rows})]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Refuse: facts come about by themselves."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        """Refuse: who may change may look, and no more."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        """Refuse: facts stay."""
        return False

    def has_act_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        """Tell whether somebody may decide on it, or send it again: who may "change" it."""
        codename = get_permission_codename("change", self.opts)
        return request.user.has_perm(f"{self.opts.app_label}.{codename}")

    def get_urls(self) -> list[Any]:
        """Put the CSV file beside the list."""
        name = f"{self.opts.app_label}_{self.opts.model_name}_csv"
        return [
            path("csv/", self.admin_site.admin_view(self.csv_view), name=name),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the list, with a link to the same as a CSV file."""
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_csv"
        address = reverse(name, current_app=self.admin_site.name)
        query = request.GET.urlencode()
        csv_url = f"{address}?{query}" if query else address
        return super().changelist_view(request, {"csv_url": csv_url} | (extra_context or {}))

    def csv_view(self, request: HttpRequest) -> HttpResponseBase:
        """
        Answer with all rows that the list would show, whatever page it is on, as a CSV file.

        Tests are in no export, unless somebody has asked for them.
        """
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            rows = self.get_changelist_instance(request).queryset
        except IncorrectLookupParameters:
            return HttpResponseRedirect(f"{request.path}?")
        if self.tests is not None and IS_TEST not in request.GET:
            # Somebody will sum up what is in the file.
            rows = rows.exclude(self.tests)
        columns = [self._column(name) for name in self.csv_columns]
        return exports.as_csv(
            request,
            str(self.opts.verbose_name_plural),
            [heading for heading, _value in columns],
            ([value(row) for _heading, value in columns] for row in batches.by_key(rows)),
        )

    def _column(self, name: str) -> tuple[str, Any]:
        """Return the heading of a column, and what gives its value."""
        if hasattr(self, name):
            method = getattr(self, name)
            return capfirst(str(method.short_description)), method
        field: Any = self.opts.get_field(name)
        heading = capfirst(str(field.verbose_name))
        if field.choices:
            return heading, lambda row: getattr(row, f"get_{name}_display")()
        return heading, lambda row: getattr(row, name)

    def _open_to(self, request: HttpRequest, name: Any) -> Any:
        """Return a column or a field, or the same without a link that somebody may not follow."""
        if name in self.plain:
            model, plain = self.plain[name]
            return name if may_view(request, model) else plain
        field = next((one for one in self.opts.fields if one.name == name), None)
        if field is None or field.related_model is None or may_view(request, field.related_model):
            return name

        # Django links every key of another row.
        @admin.display(description=field.verbose_name)
        def text(row: models.Model) -> str:
            return str(getattr(row, name) or "-")

        text.__name__ = name
        return text
