"""The base classes of the Admin: columns, read-only rows and CSV files."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.exceptions import (
    DisallowedModelAdminLookup,
    DisallowedModelAdminToField,
)
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ORDER_VAR, ChangeList
from django.contrib.admin.widgets import url_params_from_lookup_dict
from django.contrib.auth import get_permission_codename, get_user_model
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import DataError, models
from django.http import HttpResponseRedirect
from django.urls import path, reverse
from django.utils.formats import number_format
from django.utils.html import format_html
from django.utils.text import Truncator, capfirst
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations import db
from affiliations.admin.filters import IS_TEST, DatesFilter, TypedFilter
from affiliations.admin.pages import ObjectViewsMixin
from affiliations.amounts import money
from affiliations.models import Subscription
from affiliations.models.accounts import user_display
from affiliations.reports import export

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase

    from affiliations.models import Callback, Conversion

#: The colour of each status, named as the Admin names the levels of its messages.
TONES = {
    "approved": "success",
    "delivered": "success",
    "pending": "warning",
    "queued": "info",
    "paused": "warning",
    "rejected": "error",
    "exhausted": "error",
    "cancelled": "quiet",
}


def may_view(request: HttpRequest, model: type[models.Model]) -> bool:
    """Tell whether the user may view the rows of a model in the Admin."""
    names = (get_permission_codename(verb, model._meta) for verb in ("view", "change"))
    return any(request.user.has_perm(f"{model._meta.app_label}.{name}") for name in names)


#: The errors of databases and drivers about an invalid value: a NUL, a huge number, or text instead
#: of a number.
_INVALID_VALUE = (DataError, OverflowError, ValueError)
#: The exceptions by which Django refuses a parameter. Uncaught, they lead to an error page.
_REFUSED = (DisallowedModelAdminLookup, DisallowedModelAdminToField)

#: The highest count of a list: counting ten million rows takes longer than reading a page.
COUNT_LIMIT = 10_000
#: The maximum of characters of a search.
_MAX_SEARCH = 255
#: The length to which a column cuts a text.
_SHORT = 40
#: The length to which a column cuts a name with an e-mail address.
_LONG = 80


class CountingPaginator(Paginator):
    """A paginator for long lists, which stops counting rows after ``COUNT_LIMIT``."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        if isinstance(rows, models.QuerySet):
            return rows.order_by()[: COUNT_LIMIT + 1].count()
        return len(rows)

    @property
    def is_capped(self) -> bool:
        return self.count > COUNT_LIMIT


def badge(value: str, label: Any) -> str:
    return format_html('<span class="aff-badge aff-{}">{}</span>', TONES.get(value, "quiet"), label)


def callback_badge(callback: Callback) -> str:
    if callback.waits_for:
        return badge("paused", gettext("paused"))
    return badge(callback.status, callback.get_status_display())


def marked(text: str, *, is_test: bool) -> str:
    """Return the text of a row in a list, with a badge if the row is a test."""
    return format_html("{} {}", text, badge("test", gettext("test"))) if is_test else text


def two_lines(first: str, second: str) -> str:
    """Return the text of a cell with a less important one below it."""
    return format_html('{} <span class="aff-below">{}</span>', first, second)


def short(text: object) -> str:
    return Truncator(str(text)).chars(_SHORT)


def column(
    path: str, description: Any, *, ordering: str | None = None, label: Callable[[Any], str] = short
) -> Any:
    """
    Return a column that shows an attribute of a row as text, cut by default.

    ``path`` may lead to another row, as in ``"conversion.reference"``. If there is no such row, the
    text is empty.
    """

    @admin.display(description=description, ordering=ordering)
    def text(model_admin: admin.ModelAdmin, row: models.Model) -> str:
        value = _follow(row, path)
        return "" if value is None else label(value)

    return text


def money_column(amount: str, currency: str, description: Any, *, ordering: Any = None) -> Any:
    """Return a column that shows an amount with its currency; both are paths as in ``column``."""

    @admin.display(description=description, ordering=ordering)
    def text(model_admin: admin.ModelAdmin, row: models.Model) -> str:
        value = _follow(row, amount)
        return "-" if value is None else money(value, _follow(row, currency))

    return text


def flag_column(name: str, description: Any, text: Any) -> Any:
    """Return a column with a badge where the field ``name`` is true, and a dash elsewhere."""

    @admin.display(description=description)
    def show(model_admin: admin.ModelAdmin, row: models.Model) -> str:
        return badge(name, text) if getattr(row, name) else "-"

    return show


test_display = flag_column("is_test", _("test"), _("test"))


#: Beside the payout of a subscription, if ``AFFILIATE_PAYOUT`` is set.
PAYOUT_FUNCTION = _(
    "This site calculates the payout of each order itself (AFFILIATE_PAYOUT). Only orders for "
    "which it leaves that to the subscription get this payout."
)


@admin.display(description=_("payout value"))
def payout_value_display(model_admin: Any, row: Conversion | Subscription) -> str:
    """Return the value of a payout rule, an amount or a percentage, for a column."""
    if row.payout_value is None:
        return "-"
    if row.payout_type == Subscription.PayoutType.PERCENT:
        return f"{number_format(row.payout_value.normalize())}\xa0%"
    return money(row.payout_value, row.payout_currency)


def link_column(
    path: str, model: type[models.Model], description: Any, label: Callable[[Any], object] = str
) -> Any:
    """
    Return a column that links to another row; ``path`` is a path as in ``column``.

    Users without the permission to view the ``model`` see the text without a link.
    """

    @admin.display(description=description)
    def show(model_admin: FactAdmin, row: models.Model) -> str:
        target = _follow(row, path)
        return "-" if target is None else model_admin.link(target, label(target))

    show.target = (model, path, label)  # type: ignore[attr-defined] # ours
    return show


class UserColumnsMixin:
    """The user of a row by name and e-mail address: in the list, on its page, in the CSV file."""

    user_start = column(
        "user", _("user"), label=lambda user: Truncator(user_display(user)).chars(_LONG)
    )
    user_link = link_column("user", get_user_model(), _("user"), label=user_display)
    user_display = column("user", _("user"), label=user_display)


def _follow(row: models.Model, path: str) -> Any:
    value: Any = row
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


class OfferedChangeList(ChangeList):
    """
    A list that can be filtered and sorted only by its own filters and columns.

    Django's change list accepts a lookup of any column, such as ``?signing_secret__startswith=a``,
    and so reveals values that it does not show.
    """

    def get_filters(self, request: HttpRequest) -> Any:
        """Refuse a parameter of the query string that no filter has used."""
        found: Any = super().get_filters(request)
        remaining = found[2]
        offered = {f"{self.date_hierarchy}__{lookup}" for lookup in ("gte", "lt")}
        for name in remaining:
            if name not in offered and not self._is_limit(name):
                raise IncorrectLookupParameters(name)
        return found

    def _is_limit(self, name: str) -> bool:
        """Tell whether a parameter is from the ``limit_choices_to`` of a raw id field."""
        limits = (limit() if callable(limit) else limit for limit in self.opts.related_fkey_lookups)
        values = self.filter_params.get(name)
        return any([url_params_from_lookup_dict(limit).get(name)] == values for limit in limits)

    def get_ordering(self, request: HttpRequest, queryset: models.QuerySet) -> list[Any]:
        """Sort first by a date that the list is filtered by, so that an index finds the rows."""
        ordering: list[Any] = super().get_ordering(request, queryset)
        if ORDER_VAR in self.params:
            return ordering
        dated = [one for one in self.filter_specs if isinstance(one, DatesFilter)]
        return [f"-{one.path}" for one in dated if one.path and one.values] + ordering

    def get_ordering_field(self, field_name: Any) -> Any:
        """Sort only by the columns whose headings are links."""
        is_offered = field_name in (self.sortable_by or ())
        return super().get_ordering_field(field_name) if is_offered else None


class ListAdmin(admin.ModelAdmin):
    """A model whose list accepts any query string and never counts a long table."""

    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = CountingPaginator

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> models.Model | None:
        """Treat an empty ``from_field`` as none, because Django would fail at it."""
        return super().get_object(request, object_id, from_field or None)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return OfferedChangeList

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        """Redirect to the unfiltered list, as Django does, if a parameter is invalid."""
        try:
            return super().get_changelist_instance(request)
        except (*_INVALID_VALUE, *_REFUSED) as error:
            raise IncorrectLookupParameters(error) from error

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet, search_term: str
    ) -> tuple[models.QuerySet, bool]:
        """
        Search without NULs, and only by the start of a long text.

        Lists refuse NULs, but a host's autocomplete view may not. SQLite refuses a condition for
        each of 1,000 words.
        """
        term = search_term.replace("\0", "")[:_MAX_SEARCH]
        return super().get_search_results(request, queryset, term)

    def response_action(
        self, request: HttpRequest, queryset: models.QuerySet, *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        """Run the action, unless one of the selected primary keys is invalid."""
        try:
            queryset.filter(pk__in=request.POST.getlist(ACTION_CHECKBOX_NAME)).exists()
        except _INVALID_VALUE:
            return None
        return super().response_action(request, queryset, *args, **kwargs)


class ReadOnlyMixin:
    """Rows that can be viewed, but not added, changed or deleted."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class CSVListAdmin(ListAdmin):
    """A model whose list can be downloaded as a CSV file."""

    def csv_view(self, request: HttpRequest) -> HttpResponseBase:
        """Return all rows of the filtered list, of every page, as a CSV file."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            changelist = self.get_changelist_instance(request)
        except IncorrectLookupParameters:
            return HttpResponseRedirect(f"{request.path}?")
        typed = [one for one in changelist.filter_specs if isinstance(one, TypedFilter)]
        filtered_by = [part for one in typed for part in one.in_file_name()]
        name = export.file_name(self.opts.verbose_name_plural, *filtered_by)
        return export.as_csv(request, name, *self.csv_table(request, changelist))

    @abstractmethod
    def csv_table(
        self, request: HttpRequest, changelist: Any
    ) -> tuple[Iterable[object], Iterable[Sequence[object]]]:
        """Return the headings and the rows of the CSV file."""

    def get_urls(self) -> list[Any]:
        name = f"{self.opts.app_label}_{self.opts.model_name}_csv"
        return [
            path("csv/", self.admin_site.admin_view(self.csv_view), name=name),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_csv"
        address = reverse(name, current_app=self.admin_site.name)
        query = request.GET.urlencode()
        csv_url = f"{address}?{query}" if query else address
        return super().changelist_view(request, {"csv_url": csv_url} | (extra_context or {}))


class FactAdmin(ReadOnlyMixin, ObjectViewsMixin, CSVListAdmin):
    """A model whose rows record facts: only the app writes them, and staff use actions."""

    #: The columns of the CSV file: names of fields and of methods.
    csv_columns: Sequence[str] = ()
    ordering = ["-pk"]

    def link(self, row: models.Model, text: object = None) -> str:
        """Return a link to a row, or only the text if its model is not registered on this site."""
        url = self.link_url(row)
        return format_html('<a href="{}">{}</a>', url, text or row) if url else str(text or row)

    # As a text, because a number would be localised.
    pk_display = column("pk", "ID", ordering="pk")

    def get_list_display(self, request: HttpRequest) -> Any:
        return [self._permitted(request, name) for name in super().get_list_display(request)]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        rows = [
            [self._permitted(request, name) for name in ([row] if isinstance(row, str) else row)]
            for row in self.get_fields(request, obj)
        ]
        return [(None, {"fields": rows})]

    def has_act_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        """Tell whether the user may use the actions, which need Django's permission "change"."""
        return admin.ModelAdmin.has_change_permission(self, request, obj)

    def csv_table(
        self, request: HttpRequest, changelist: Any
    ) -> tuple[Iterable[object], Iterable[Sequence[object]]]:
        """
        Return the headings and the rows of the CSV file.

        Tests are left out, unless the list is filtered by them, so that sums are right.
        """
        rows = changelist.queryset
        if "is_test" in self.list_filter and IS_TEST not in request.GET:
            rows = rows.filter(is_test=False)
        columns = [self._csv_column(name) for name in self.csv_columns]
        lines = ([value(row) for _heading, value in columns] for row in db.by_key(rows))
        return [heading for heading, _value in columns], lines

    def _csv_column(self, name: str) -> tuple[str, Callable[[Any], Any]]:
        if hasattr(self, name):
            method = getattr(self, name)
            return capfirst(str(method.short_description)), method
        field: Any = self.opts.get_field(name)
        heading = capfirst(str(field.verbose_name))
        if field.choices:
            return heading, lambda row: getattr(row, f"get_{name}_display")()
        return heading, lambda row: getattr(row, name)

    def _permitted(self, request: HttpRequest, name: Any) -> Any:
        """
        Return the name of a column or field, or a column that shows its text without a link.

        There is no link if the user may not view the linked row. URLs are never links, because
        strangers can choose them.
        """
        method = getattr(self, name, None) if isinstance(name, str) else None
        field = next((field for field in self.opts.fields if field.name == name), None)
        label: Callable[[Any], object] = str
        if method is not None and hasattr(method, "target"):
            (model, path, label), description = method.target, method.short_description
        # Django links every foreign key and every URL.
        elif method is None and isinstance(field, models.URLField):
            model, path, description = None, name, field.verbose_name
        elif method is None and field is not None and field.related_model is not None:
            model, path, description = field.related_model, name, field.verbose_name
        else:
            return name
        if model is not None and may_view(request, model):
            return name

        @admin.display(description=description)
        def text(row: models.Model) -> str:
            target = _follow(row, path)
            return "-" if target in (None, "") else str(label(target))

        text.__name__ = name
        return text
