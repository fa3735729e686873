"""The filters of the lists, as quick with ten thousand partners as with ten."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import PAGE_VAR
from django.db.models import Q
from django.utils.dateparse import parse_date
from django.utils.translation import gettext_lazy as _

from affiliations.conf import settings
from affiliations.models import Partner, Subscription
from affiliations.periods import FIRST, LAST, Period, midnight, today

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.contrib.admin.views.main import ChangeList
    from django.db.models import QuerySet
    from django.http import HttpRequest

#: So many partners are offered by name, and so many are looked for at once.
_PARTNERS = 100
#: So many triggers are offered that somebody subscribes to, and a name has so many characters.
_TRIGGERS = 100
_NAME = 100
#: What asks for tests, or for all but them, in the address of any list that has some.
IS_TEST = "is_test__exact"
#: Of so many days are numbers where nobody asks for others.
RECENT_DAYS = 30


class _TypedFilter(admin.ListFilter):
    """A filter whose values are typed into a small form, and work without any script."""

    parameters: tuple[str, ...]

    def __init__(
        self,
        request: HttpRequest,
        params: dict[str, Any],
        model: type[Any],
        model_admin: admin.ModelAdmin,
    ) -> None:
        super().__init__(request, params, model, model_admin)
        self.values = {
            name: params.pop(name)[-1].strip() for name in self.parameters if name in params
        }
        self.used_parameters = {name: value for name, value in self.values.items() if value}

    def has_output(self) -> bool:
        return True

    def expected_parameters(self) -> list[str | None]:
        return list(self.parameters)

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        """Return one thing: what the form needs to keep all the rest of the list as it is."""
        yield {
            "selected": False,
            "query_string": changelist.get_query_string(remove=[*self.parameters, PAGE_VAR]),
            "kept": [
                (name, value)
                for name, values in changelist.filter_params.items()
                if name not in self.parameters
                for value in values
            ],
        }


class PartnerFilter(_TypedFilter):
    """By partner: their uid, or their name or a part of it."""

    title = _("partner")
    template = "admin/affiliations/filters/partner.html"
    parameters = ("partner",)
    #: How a row knows its partner.
    path = "partner"

    @property
    def value(self) -> str:
        """What was typed."""
        return str(self.values.get("partner", ""))

    def names(self) -> list[str]:
        """Return the first partners, for a browser to propose."""
        partners = Partner.objects.order_by("-active", "name", "pk")
        return list(partners.values_list("name", flat=True)[:_PARTNERS])

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        """Keep what belongs to them."""
        if not self.value:
            return queryset
        partners = Partner.objects.order_by("pk").values_list("pk", flat=True)
        found = (
            partners.filter(uid=self.value)[:1]
            or partners.filter(name=self.value)[:_PARTNERS]
            or partners.filter(Q(name__icontains=self.value))[:_PARTNERS]
        )
        return queryset.filter(**{f"{self.path}__in": list(found)})


class CallbackPartnerFilter(PartnerFilter):
    """By the partner of a callback."""

    path = "callback__partner"


class TriggerFilter(admin.SimpleListFilter):
    """By trigger, also by one that is called otherwise by now."""

    title = _("trigger")
    parameter_name = "trigger"
    path = "trigger"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> list[tuple[str, str]]:
        """Return the names; not those of all rows, which would be looked through for it."""
        return [(name, name) for name in trigger_names(self.value() or "")]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        """Keep what the trigger has counted."""
        return queryset.filter(**{self.path: self.value()}) if self.value() else queryset


class CallbackTriggerFilter(TriggerFilter):
    """By the trigger that a callback tells of."""

    path = "subscription__trigger"


class AttemptTriggerFilter(TriggerFilter):
    """By the trigger that the callback of an attempt tells of."""

    path = "callback__subscription__trigger"


class TestFilter(admin.SimpleListFilter):
    """By whether it is a test, as the list knows it."""

    title = _("test")
    parameter_name = IS_TEST

    def __init__(
        self, request: HttpRequest, params: dict[str, Any], model: type[Any], model_admin: Any
    ) -> None:
        self.tests: Q = model_admin.tests
        super().__init__(request, params, model, model_admin)

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> list[tuple[str, Any]]:
        """Return both."""
        return [("1", _("Yes")), ("0", _("No"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        """Keep the one or the other."""
        if self.value() not in ("1", "0"):
            return queryset
        return queryset.filter(self.tests) if self.value() == "1" else queryset.exclude(self.tests)


class DatesFilter(_TypedFilter):
    """By date: from one day to another, both included, where the site is."""

    title = _("date")
    template = "admin/affiliations/filters/dates.html"
    parameters = ("since", "until")
    path = "created_on"
    #: What stands above it instead of "By date".
    heading: Any = ""
    #: The periods that are mostly meant, in days until today.
    past: Mapping[Any, int | None] = {
        _("Any date"): None,
        _("Today"): 1,
        _("Past 7 days"): 7,
        _("Past 30 days"): 30,
    }

    @property
    def days(self) -> list[tuple[str, str, Any]]:
        """The two ends: the name, what was typed and what it is called."""
        labels = {"since": _("From"), "until": _("To")}
        return [(name, self.values.get(name, ""), labels[name]) for name in self.parameters]

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        """Return the form, and the periods that are mostly meant."""
        yield from super().choices(changelist)
        for label, days in self.past.items():
            change = {"since": Period.past(days).first.isoformat()} if days else {}
            others = [name for name in self.parameters if name not in change]
            yield {
                "selected": self.used_parameters == change,
                "query_string": changelist.get_query_string(change, [*others, PAGE_VAR]),
                "display": label,
            }

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        """Keep what is of these days."""
        if since := self.day("since"):
            queryset = queryset.filter(**{f"{self.path}__gte": midnight(since)})
        if until := self.day("until"):
            end = midnight(until + timedelta(days=1))
            queryset = queryset.filter(**{f"{self.path}__lt": end})
        return queryset

    def day(self, name: str) -> date | None:
        """Return the day that was typed, if any."""
        if name not in self.used_parameters:
            return None
        day = parse_date(self.values[name])
        if day is None or not FIRST <= day <= LAST:
            raise IncorrectLookupParameters(self.values[name])
        return day


class PeriodFilter(DatesFilter):
    """Not what is in the list, but of which days its numbers are."""

    title = _("period")
    heading = _("The numbers are of")
    past = {_("Past 7 days"): 7, _("Past 30 days"): None, _("Past 90 days"): 90}

    @property
    def period(self) -> Period:
        """The days that were asked for, or the past thirty."""
        last = self.day("until") or today()
        first = self.day("since") or last - timedelta(days=RECENT_DAYS - 1)
        if first > last:
            raise IncorrectLookupParameters(first, last)
        return Period(first, last)

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        """Keep everything, unless there are no such days."""
        self.period  # noqa: B018 -- raises where it is none
        return queryset


class ReferredFilter(DatesFilter):
    """By the day of the referral."""

    path = "referred_on"


class StartedFilter(DatesFilter):
    """By the day of an attempt."""

    path = "started_on"


def trigger_names(asked: str) -> list[str]:
    """
    Return the names of triggers: of the settings, those subscribed to, and the one asked for.

    What a renamed trigger has counted keeps the old name. What can be no name is left out.
    """
    subscribed = Subscription.objects.order_by("trigger").values_list("trigger", flat=True)
    names = [*settings.counting_triggers, *subscribed.distinct()[:_TRIGGERS]]
    if 0 < len(asked) <= _NAME and "\0" not in asked:
        names.append(asked)
    return list(dict.fromkeys(names))
