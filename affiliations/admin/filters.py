"""The filters of the lists, which all use an index."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.http import QueryDict
from django.utils.dateparse import parse_date
from django.utils.translation import gettext_lazy as _

from affiliations import db
from affiliations.admin.search import as_key
from affiliations.conf import settings
from affiliations.dates import FIRST, LAST, PRESETS, Period, midnight, today
from affiliations.models import Partner, Subscription

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.contrib.admin.views.main import ChangeList
    from django.db.models import QuerySet
    from django.http import HttpRequest

#: The maximum of partners that one search finds.
_MAX_PARTNERS = 100
#: The maximum of subscribed triggers to choose from.
_MAX_TRIGGERS = 100
#: The query parameter of the filter by tests, in each list that has tests.
IS_TEST = "is_test__exact"
#: The default number of days of the statistics.
RECENT_DAYS = 30
DEFAULT_PRESET = str(RECENT_DAYS)
#: Periods of a list are shorter than this, as those of the report are.
LONGEST_PERIOD = timedelta(days=366 * 31)


class TypedFilter(admin.ListFilter):
    """
    A filter whose values are typed into a small form, which needs no script.

    The form itself is at the end of the page, since a theme may put the filters into its own form.
    A theme also drops ``used_parameters`` from its form, because it expects the filter inside. So
    ``used_parameters`` stays empty, and the theme keeps the values as it keeps other parameters.
    """

    parameters: tuple[str, ...]

    @property
    def parameter_name(self) -> str:
        """The name by which themes of the Admin identify a filter; Django's filters have it too."""
        return self.parameters[0]

    @property
    def form_id(self) -> str:
        return f"aff-filter-{self.parameter_name}"

    def __init__(
        self,
        request: HttpRequest,
        params: dict[str, Any],
        model: type[Any],
        model_admin: admin.ModelAdmin,
    ) -> None:
        super().__init__(request, params, model, model_admin)
        typed = {name: params.pop(name)[-1].strip() for name in self.parameters if name in params}
        self.values = {name: value for name, value in typed.items() if value}

    def has_output(self) -> bool:
        return True

    @abstractmethod
    def in_file_name(self) -> list[Any]:
        """Return the parts of the CSV file's name that describe the filter."""

    def expected_parameters(self) -> list[str | None]:
        return list(self.parameters)

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        """Yield the parameters of the list that the form must keep."""
        yield {
            "selected": False,
            "query_string": changelist.get_query_string(remove=self.parameters),
            "kept": [
                (name, value)
                for name, values in changelist.filter_params.items()
                if name not in self.parameters
                for value in values
            ],
        }


class PartnerFilter(TypedFilter):
    """By partner: the uid, or the name or a part of it."""

    title = _("partner")
    template = "admin/affiliations/filters/partner.html"
    parameters = ("partner",)
    path = "partner"

    @property
    def value(self) -> str:
        return str(self.values.get("partner", ""))

    def in_file_name(self) -> list[Any]:
        return [self.value]

    def names(self) -> list[str]:
        return Partner.objects.suggested_names()

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if not self.value:
            return queryset
        found = Partner.objects.matching(self.value, _MAX_PARTNERS)
        return queryset.filter(**{f"{self.path}__in": [partner.pk for partner in found]})


class CallbackPartnerFilter(PartnerFilter):
    path = "callback__partner"


class TriggerFilter(admin.SimpleListFilter):
    """By trigger; a name that is no longer in the settings is accepted too."""

    title = _("trigger")
    parameter_name = "trigger"
    path = "trigger"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> list[tuple[str, str]]:
        # Not the names in the rows, since that would read the whole table.
        return [(name, name) for name in trigger_names(self.value() or "")]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(**{self.path: self.value()}) if self.value() else queryset


class CallbackTriggerFilter(TriggerFilter):
    path = "subscription__trigger"


class AttemptTriggerFilter(TriggerFilter):
    path = "callback__subscription__trigger"


class SubscriptionFilter(admin.SimpleListFilter):
    """By subscription; shown only if the page of a subscription has linked to the list."""

    title = _("subscription")
    parameter_name = "subscription"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> list[tuple[str, str]]:
        value = self.value()
        if value is None:
            return []
        rows = Subscription.objects.select_related("partner")
        if (key := as_key(value)) is None or (found := rows.filter(pk=key).first()) is None:
            raise IncorrectLookupParameters(value)
        return [(value, f"{found.partner}: {found}")]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(subscription=self.value())


class ReviewFilter(admin.SimpleListFilter):
    """The conversions that only staff can approve."""

    title = _("review")
    parameter_name = "review"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> list[tuple[str, Any]]:
        return [("needed", _("needs review"))]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.needing_review() if self.value() == "needed" else queryset


class EndpointFilter(admin.SimpleListFilter):
    """By the state of a subscription's callbacks; "failing" includes suspended and paused."""

    title = _("callbacks")
    parameter_name = "callbacks"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> list[tuple[str, Any]]:
        return [
            ("suspended", _("suspended")),
            ("paused", _("paused")),
            ("failing", _("failing")),
        ]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        for value, _label in self.lookup_choices:
            if value == self.value():
                return getattr(queryset, value)()
        return queryset


class GaveUpFilter(admin.SimpleListFilter):
    """The callbacks that were given up in the last days."""

    title = _("gave up")
    parameter_name = "gave_up"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> list[tuple[str, Any]]:
        return [("7", _("Past 7 days")), ("30", _("Past 30 days"))]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        for value, _label in self.lookup_choices:
            if value == self.value():
                return queryset.gave_up(db.now() - timedelta(days=int(value)))
        return queryset


class PaidFilter(admin.SimpleListFilter):
    """By whether a payout statement is paid."""

    title = _("payment")
    parameter_name = "paid"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> list[tuple[str, Any]]:
        return [("no", _("unpaid")), ("yes", _("paid"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if self.value() not in ("no", "yes"):
            return queryset
        return queryset.filter(paid_on__isnull=self.value() == "no")


class DatesFilter(TypedFilter):
    """By date: from one day to another, both included, in the time zone of the site."""

    title = _("date")
    template = "admin/affiliations/filters/dates.html"
    parameters: tuple[str, ...] = ("since", "until")
    #: The field; empty if no rows are filtered.
    path = "created_on"
    #: The heading instead of "By date".
    heading: Any = ""
    #: The periods that are offered as links, in days until today.
    past: Mapping[Any, int | None] = {
        _("Any date"): None,
        _("Today"): 1,
        _("Past 7 days"): 7,
        _("Past 30 days"): 30,
    }

    @property
    def days(self) -> list[tuple[str, str, Any]]:
        labels = {"since": _("From"), "until": _("To")}
        return [(name, self.values.get(name, ""), label) for name, label in labels.items()]

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        yield from super().choices(changelist)
        for label, days in self.past.items():
            change = {"since": Period.past(days).first.isoformat()} if days else {}
            others = [name for name in self.parameters if name not in change]
            yield {
                "selected": self.values == change,
                "query_string": changelist.get_query_string(change, others),
                "display": label,
            }

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if since := self.day("since"):
            queryset = queryset.filter(**{f"{self.path}__gte": midnight(since)})
        if until := self.day("until"):
            end = midnight(until + timedelta(days=1))
            queryset = queryset.filter(**{f"{self.path}__lt": end})
        return queryset

    def in_file_name(self) -> list[Any]:
        """Return the first day, if there is one, and the last day, which is today by default."""
        return [self.day("since") or "", self.day("until") or today()]

    def day(self, name: str) -> date | None:
        return _day_of(self.values, name)


class PeriodFilter(DatesFilter):
    """The period of the statistics in the list; the rows are not filtered."""

    title = _("period")
    parameters = ("since", "until", "period")
    path = ""
    heading = _("Period")

    @property
    def period(self) -> Period:
        return period_of(self.values)

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        yield from TypedFilter.choices(self, changelist)
        chosen = self.values or {"period": DEFAULT_PRESET}
        for name, label in PRESETS.items():
            change = {"period": name}
            yield {
                "selected": chosen == change,
                "query_string": changelist.get_query_string(change, ["since", "until"]),
                "display": label,
            }

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        self.period  # noqa: B018 -- raises if there is no such period
        return queryset

    def in_file_name(self) -> list[Any]:
        return [self.period.first, self.period.last]


class GroupFilter(admin.SimpleListFilter):
    """By the partner's group; shown if any partner has a group."""

    title = _("group")
    parameter_name = "group"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> list[tuple[str, str]]:
        names = Partner.objects.groups()
        return [(name, name) for name in dict.fromkeys([*names, *filter(None, [self.value()])])]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(group=self.value()) if self.value() else queryset


class ReferredFilter(DatesFilter):
    path = "referred_on"


class StartedFilter(DatesFilter):
    path = "started_on"


def period_of(values: Mapping[str, str]) -> Period:
    """
    Return the period of a query string: ``period``, or else ``since`` and ``until``.

    By default, it is the past 30 days. Raise ``IncorrectLookupParameters`` if a value is invalid.
    """
    since, until = _day_of(values, "since"), _day_of(values, "until")
    if since is None and until is None:
        period = Period.preset(values.get("period") or DEFAULT_PRESET)
    else:
        last = until or today()
        period = Period(since or last - timedelta(days=RECENT_DAYS - 1), last)
    if period is None or not timedelta(0) <= period.last - period.first < LONGEST_PERIOD:
        raise IncorrectLookupParameters(period)
    return period


def carried_period(request: HttpRequest) -> dict[str, str]:
    """Return the period in the query string of a row's page, or else of the list before it."""
    for query in (request.GET, QueryDict(request.GET.get("_changelist_filters", ""))):
        found = {name: query[name] for name in PeriodFilter.parameters if query.get(name)}
        try:
            period_of(found)
        except IncorrectLookupParameters:
            continue
        if found:
            return found
    return {"period": DEFAULT_PRESET}


def report_parameters(values: Mapping[str, str]) -> dict[str, Any]:
    """Return the parameters of the report for the same period."""
    if "since" in values or "until" in values:
        period = period_of(values)
        return {"since": period.first, "until": period.last}
    return {"period": values.get("period", DEFAULT_PRESET)}


def _day_of(values: Mapping[str, str], name: str) -> date | None:
    if name not in values:
        return None
    try:
        day = parse_date(values[name])
    except ValueError:  # such as the 30th of February
        day = None
    if day is None or not FIRST <= day <= LAST:
        raise IncorrectLookupParameters(values[name])
    return day


def trigger_names(chosen: str) -> list[str]:
    """
    Return the names of triggers: of the settings, of subscriptions, and the chosen one.

    The conversions of a renamed trigger keep the old name. An invalid chosen name is left out.
    """
    subscribed = Subscription.objects.order_by("trigger").values_list("trigger", flat=True)
    names = [*settings.counting_triggers, *subscribed.distinct()[:_MAX_TRIGGERS]]
    longest = Subscription._meta.get_field("trigger").max_length or 0
    if 0 < len(chosen) <= longest and "\0" not in chosen:
        names.append(chosen)
    return list(dict.fromkeys(names))
