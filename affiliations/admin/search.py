"""The search of the lists: it finds whole values only, so that an index finds them."""

from __future__ import annotations

import logging
import re
from abc import abstractmethod
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from django.contrib import admin, messages
from django.contrib.auth import get_user_model
from django.db import models
from django.db.models import Q, QuerySet, Value
from django.db.models.functions import Lower
from django.db.models.lookups import Exact
from django.utils.translation import gettext

from affiliations import db
from affiliations.conf import settings
from affiliations.models import Conversion, Visitor

if TYPE_CHECKING:
    from django.http import HttpRequest

logger = logging.getLogger("affiliations")

#: The maximum of rows of another table that a search looks up, the latest first. Also the maximum
#: of references that are taken from ``AFFILIATE_SEARCH``.
MAX_MATCHES = 200
_MAX_USERS = 50
#: A number with more digits may be too large for a primary key.
_MAX_DIGITS = 18
#: The length of the column of references.
_MAX_LENGTH = 255
#: What people write around a number.
_AROUND = " #№.,:;!?()[]<>\"'“”‘’«»"  # noqa: RUF001 -- quotation marks
#: A word and a sign directly before a number, as in "No.10200" and "order#10200". A match starts
#: only at the beginning of the word, so that a long text takes linear time.
_LABEL = re.compile(r"(?<![^\W\d_])(?<![#№.:°])[^\W\d_º]*[#№.:°º]+(?=\w)")


class Term(NamedTuple):
    """What staff search for, and the references that it may mean."""

    text: str
    references: list[str]

    def or_key(self, matching: Q, field: str = "pk") -> Q:
        """Match also the rows that have the typed number in ``field``, a primary or foreign key."""
        return matching if (key := as_key(self.text)) is None else matching | Q(**{field: key})


def as_key(text: str) -> int | None:
    """Return the number that is searched for, if it can be the primary key of a row."""
    return int(text) if text.isdecimal() and len(text) <= _MAX_DIGITS else None


class ExactSearch(admin.ModelAdmin):
    """A list whose search finds whole values only."""

    @abstractmethod
    def search(self, term: Term) -> Q:
        """Match the rows that a term finds."""

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet, search_term: str
    ) -> tuple[QuerySet, bool]:
        text = search_term.replace("\0", "").strip()
        if not text:
            return queryset, False
        references = quoted_references(text)
        try:
            with db.savepoint():
                references += _references_of_host(text)
        except Exception:
            logger.exception("AFFILIATE_SEARCH failed.")
            note = gettext(
                "AFFILIATE_SEARCH, this site’s own search function, failed. The reason is in the "
                "log. Only what the app itself finds is shown."
            )
            self.message_user(request, note, messages.WARNING, fail_silently=True)
        return queryset.filter(self.search(Term(text, list(dict.fromkeys(references))))), False


def quoted_references(text: str) -> list[str]:
    """
    Return the references that a text may mean: as typed, and without the words around a number.

    >>> quoted_references("Order No. 10200")
    ['Order No. 10200', '10200', '#10200']
    """
    words = text.split()
    first = next((place for place, word in enumerate(words) if re.search(r"\d", word)), 0)
    bare = _LABEL.sub("", " ".join(words[first:]).strip(_AROUND), count=1).strip(_AROUND)
    found = [text, bare, "".join(bare.split()), f"#{bare}"] if bare else [text]
    return list(dict.fromkeys(reference[:_MAX_LENGTH] for reference in found))


def _references_of_host(text: str) -> list[str]:
    """Return what ``AFFILIATE_SEARCH`` finds; it may raise any exception."""
    if settings.search is None:
        return []
    found: Any = settings.search(text)
    if found is None or isinstance(found, str):
        found = [found]
    if isinstance(found, QuerySet):
        found = found[:MAX_MATCHES]  # Otherwise it would be read as a whole.
    return [
        str(reference).replace("\0", "")[:_MAX_LENGTH]
        for reference in islice(found, MAX_MATCHES)
        if reference not in (None, "")
    ]


def users_found(text: str) -> list[Any]:
    """
    Return the primary keys of the users with exactly this name or e-mail address.

    It does not search for a part: the table of users may be long, and has no index for that. The
    case of an e-mail address does not matter; an index on its lower case is used, if the host has
    one. If no user is found, usernames that are addresses are compared ignoring case too.
    """
    User = get_user_model()
    # The host's user model may have no such text fields.
    kinds = (models.CharField, models.TextField)
    fields = {field.name for field in User._meta.concrete_fields if isinstance(field, kinds)}
    name, email = User.USERNAME_FIELD, getattr(User, "EMAIL_FIELD", "email")
    no_user = Q(pk__in=[])
    tries = [Q(**{name: text}) if name in fields else no_user]
    if "@" in text:
        lowered = {
            field: Q(Exact(Lower(field), Lower(Value(text))))
            for field in (email, name)
            if field in fields
        }
        tries[0] |= lowered.pop(email, no_user)
        tries += lowered.values()
    for matching in tries:
        users = User._default_manager.filter(matching).order_by("pk")
        if keys := list(users.values_list("pk", flat=True)[:_MAX_USERS]):
            return keys
    return []


def latest(rows: QuerySet[Any], field: str = "pk") -> list[int]:
    """Return the keys in ``field`` of the latest rows, to look them up in another table."""
    return list(rows.order_by("-pk").values_list(field, flat=True)[:MAX_MATCHES])


def callbacks_matching(term: Term) -> Q:
    """Match callbacks by one of their ids, or by their conversion."""
    conversions = latest(Conversion.objects.filter(conversions_matching(term)))
    return term.or_key(Q(webhook_id=term.text) | Q(conversion__in=conversions))


def conversions_matching(term: Term) -> Q:
    """Match conversions by a reference, a click id, a visitor's id or a user."""
    visitors = latest(Visitor.objects.filter(click_id=term.text))
    return term.or_key(
        Q(reference__in=term.references)
        | Q(visitor__in=visitors)
        | Q(user__in=users_found(term.text)),
        "visitor",
    )
