"""
The story of a referral in plain words: what was counted, what was not, and why.

``find`` says whose stories are meant and ``tell`` tells them, in the reader's language and with
six queries more than the visitors themselves, however long they are. Nothing is printed here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db.models import Prefetch, QuerySet
from django.utils import timezone

from affiliations.models import Callback, Conversion, Correction, UncountedTrigger, Visitor
from affiliations.stories import referrals
from affiliations.stories.lines import Line

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = ["LIMIT", "Line", "Story", "find", "tell"]

#: So many referrals are told of at once.
LIMIT = 20


@dataclass(frozen=True)
class Story:
    """What has become of one referral, from its beginning to how it stands now."""

    visitor: Visitor
    lines: list[Line]


def find(
    *,
    visitor: int | None = None,
    user: User | None = None,
    reference: str = "",
    click_id: str = "",
    limit: int = LIMIT,
) -> list[int]:
    """
    Return the ids of the referrals that are asked about, the latest first.

    Those of a ``user`` are theirs, and those that something was credited to which they bought; a
    ``reference`` is also that of what was not counted. One more than ``limit`` is returned where
    there are more. MariaDB folds case and accents, and so finds what is nearly the same as well.
    """
    rows: list[QuerySet[Any]] = []
    if visitor is not None:
        rows.append(Visitor.objects.filter(pk=visitor))
    if user is not None:
        rows += [Visitor.objects.filter(user=user), Conversion.objects.filter(user=user)]
    if reference:
        rows += [
            model._default_manager.filter(reference=reference[:255])
            for model in (Conversion, UncountedTrigger)
        ]
    if click_id:
        rows.append(Visitor.objects.filter(click_id=click_id))
    found: set[int] = set()
    for some in rows:
        key = "pk" if some.model is Visitor else "visitor_id"
        ids = some.order_by(f"-{key}").values_list(key, flat=True).distinct()
        found.update(ids[: limit + 1])
    return sorted(found, reverse=True)[: limit + 1]


def tell(visitor_ids: Collection[int]) -> list[Story]:
    """Tell the stories of these visitors, the latest first."""
    visitors = (
        Visitor.objects.filter(pk__in=visitor_ids)
        .select_related("partner", "user", "previous__partner")
        .prefetch_related(
            Prefetch("displaced_by", Visitor.objects.select_related("partner")),
            "uncounted_triggers",
            Prefetch(
                "conversions",
                Conversion.objects.select_related("user", "decided_by", "settlement"),
            ),
            Prefetch(
                "conversions__corrections",
                Correction.objects.select_related("settlement", "created_by"),
            ),
            Prefetch("conversions__callbacks", Callback.objects.select_related("subscription")),
            "conversions__callbacks__attempts",
        )
    )
    now = timezone.now()
    return [
        Story(visitor, [*referrals.past(visitor), referrals.present(visitor, now)])
        for visitor in visitors.order_by("-pk")
    ]
