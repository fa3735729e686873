"""What is meant by what somebody searches for, found by the indexes that there are."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db import models
from django.db.models import Q

from affiliations.models import Conversion, Visitor

if TYPE_CHECKING:
    from django.http import HttpRequest

#: So many rows of another table are meant by one search, the latest.
MEANT = 200
#: So many users are.
_USERS = 50
#: So many digits any key fits in.
_DIGITS = 18


class ExactSearch(admin.ModelAdmin):
    """Rows of a long table, which somebody finds by what they have in full."""

    @abstractmethod
    def meant(self, term: str) -> Q:
        """Return which rows are meant."""

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet, search_term: str
    ) -> tuple[models.QuerySet, bool]:
        """Find what a partner or a customer asks about."""
        term = search_term.replace("\0", "").strip()
        return (queryset.filter(self.meant(term)) if term else queryset), False


def as_key(term: str) -> int | None:
    """Return the number that somebody searches for, where it can be the key of a row."""
    return int(term) if term.isdecimal() and len(term) <= _DIGITS else None


def users_found(term: str) -> list[Any]:
    """
    Return the keys of the users who are meant by their name or address, whatever model they have.

    Exactly: the tables of users are long, and have no index for a part of a name.
    """
    User = get_user_model()
    names = {User.USERNAME_FIELD, getattr(User, "EMAIL_FIELD", "")}
    wanted = Q(pk__in=[])  # nobody, where a host's users have a name that is no text
    for field in User._meta.concrete_fields:
        if field.name in names and isinstance(field, models.CharField):
            wanted |= Q(**{field.name: term})
    users = User._default_manager.filter(wanted).order_by("pk")
    return list(users.values_list("pk", flat=True)[:_USERS])


def callbacks_meant(term: str) -> Q:
    """Return which callbacks are: by an id of theirs, or by what they tell of."""
    wanted = Q(webhook_id=term)
    if (key := as_key(term)) is not None:
        wanted |= Q(pk=key)
    found = Conversion.objects.filter(conversions_meant(term)).order_by("-pk")
    return wanted | Q(conversion__in=list(found.values_list("pk", flat=True)[:MEANT]))


def conversions_meant(term: str) -> Q:
    """Return which conversions are: by a reference, a click id, a visitor or a user, in full."""
    visitors = Visitor.objects.filter(click_id=term).order_by("-pk")
    wanted = (
        Q(reference=term)
        | Q(visitor__in=list(visitors.values_list("pk", flat=True)[:MEANT]))
        | Q(user__in=users_found(term))
    )
    if (key := as_key(term)) is not None:
        wanted |= Q(visitor=key)
    return wanted
