"""
What is kept of people, and no longer than it is needed.

``blank`` takes out what is kept of one person. ``purge`` removes the visitors of whom nothing came,
and keeps their number. What was earned stays in either case: references and money are facts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings as django_settings
from django.db import router, transaction
from django.db.models import Exists, ForeignObjectRel, OuterRef, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext_noop

from affiliations import totals
from affiliations.models import (
    Callback,
    CallbackAttempt,
    Conversion,
    Partner,
    PurgedClicks,
    UncountedTrigger,
    Visitor,
)
from affiliations.models.callback import CallbackQuerySet
from affiliations.models.status import has_status
from affiliations.models.visitor import SUB_IDS, VisitorQuerySet
from affiliations.periods import day_of

if TYPE_CHECKING:
    from django.contrib.auth.models import User

BATCH = 1000

#: Why a callback was cancelled: kept in English, shown in the reader's language.
BLANKED = gettext_noop("The data of the person was blanked before the partner had taken it.")

#: What tells of a person in a visitor's row, each as it is when nothing is known.
_NOTHING = dict.fromkeys(("click_id", *SUB_IDS, "entry_point", "referrer"), "")


@dataclass
class Traces:
    """How many rows tell of a person, or did."""

    visitors: int = 0
    callbacks: int = 0

    @property
    def rows(self) -> int:
        """All of them."""
        return self.visitors + self.callbacks


def traces(user: User) -> Traces:
    """Count the rows that tell of a person, and that ``blank`` would blank."""
    return Traces(
        _visitors_of(user).count(), sum(callbacks.count() for callbacks in _callbacks_of(user))
    )


def blank(
    user: User, *, batch: int = BATCH, progress: Callable[[Traces], None] = lambda done: None
) -> Traces:
    """
    Take out what is kept of a person, and return how many rows that were.

    Blanked are the labels, the entry point and the referrer of their visitors, the URLs of the
    callbacks that tell of what they bought or of their visitors, and what came of the attempts. A
    callback that still waits is cancelled, for it would tell the partner of somebody who is not to
    be told of. One that is being sent at this moment is left: ``traces`` still counts it, so ask
    again.

    Before the account is deleted, or nobody knows any more what was theirs. ``batch`` rows go in a
    transaction; ``progress`` is called after each.
    """
    done = Traces()
    # Visitors first: what is rendered from them afterwards has nothing of the person in it.
    for ids in _batches(_visitors_of(user), batch):
        with totals.held() as state:
            rows = _visitors_of(user).filter(pk__in=ids)
            totals.blank(state, rows)
            done.visitors += rows.update(**_NOTHING)
            conversions = Conversion.objects.using(rows.db).filter(visitor__in=ids)
            conversions.update(**dict.fromkeys(SUB_IDS, ""))
        progress(done)
    for callbacks in _callbacks_of(user):
        for ids in _batches(callbacks, batch):
            done.callbacks += _blank_callbacks(ids)
            progress(done)
    return done


def expired(before: datetime) -> Iterator[VisitorQuerySet]:
    """
    Yield, partner by partner, the visitors who came before then and of whom nothing came.

    Never one whose window is open, or who was credited; nor one whom a row of the host's refers to.
    Without a window it is the session that lasts, at least so long as a new one would.
    """
    now, session = timezone.now(), timedelta(seconds=django_settings.SESSION_COOKIE_AGE)
    for partner in Partner.objects.using(router.db_for_write(Partner)).order_by("pk"):
        window = partner.attribution_window
        came = min(before, now - (session if window is None else window))
        yield _without_consequences().filter(partner=partner, referred_on__lt=came)


def purge(before: datetime, *, batch: int = BATCH) -> Iterator[int]:
    """
    Remove them, ``batch`` in a transaction, and write down their number; yield it each time.

    Partner by partner, so that the visitors who are written down together are removed together.
    """
    alias = router.db_for_write(Visitor)
    for visitors in expired(before):
        for ids in _batches(visitors, batch):
            with totals.held() as state:
                rows = visitors.filter(pk__in=ids)
                # Written, which locks them on every database: who purges at the same time finds
                # them gone. On SQLite a transaction that reads before it writes would fail.
                rows.update(successful_on=None)
                gone = list(rows)
                PurgedClicks.objects.using(alias).bulk_create(_rolled_up(gone))
                totals.take_out(state, gone)
                Visitor.objects.using(alias).filter(pk__in=[one.pk for one in gone]).delete()
            yield len(gone)


def _visitors_of(user: User) -> VisitorQuerySet:
    # From the database that is written to: a replica may not have heard of what was blanked.
    visitors = Visitor.objects.using(router.db_for_write(Visitor))
    return visitors.filter(user=user).exclude(**_NOTHING)


def _callbacks_of(user: User) -> list[CallbackQuerySet]:
    """Return the callbacks of what a person bought, and the others of their visitors."""
    said = Q(callback=OuterRef("pk")) & ~Q(message="", response_excerpt="")
    tells = ~Q(url="") | Exists(CallbackAttempt.objects.filter(said))
    telling = Callback.objects.using(router.db_for_write(Callback)).filter(tells)
    # Two, since each has an index of its own.
    return [
        telling.filter(conversion__user=user),
        telling.filter(conversion__visitor__user=user).exclude(conversion__user=user),
    ]


def _blank_callbacks(ids: list[int]) -> int:
    """Blank those of these callbacks that are not being sent; return how many."""
    alias = router.db_for_write(Callback)
    # Whatever was decided since: somebody has it in hand, and will write down what comes of it.
    sending = Q(next_attempt_on__gt=timezone.now()) & ~Q(lease_token="")
    with transaction.atomic(using=alias):
        rows = Callback.objects.using(alias).filter(pk__in=ids)
        # First, and all at once: from here on nobody claims them.
        rows.exclude(sending).update(url="", lease_token="", is_manual=False)
        blank = rows.filter(url="")
        waiting = blank.filter(has_status(Callback.Status.QUEUED, Callback.Status.HELD))
        waiting.filter(delivered_on=None).update(status=Callback.Status.CANCELLED, reason=BLANKED)
        # It was to be sent once more; the partner has taken it before.
        waiting.update(status=Callback.Status.DELIVERED)
        blanked = list(blank.values_list("pk", flat=True))
        CallbackAttempt.objects.using(alias).filter(callback__in=blanked).update(
            message="", response_excerpt=""
        )
    return len(blanked)


def _without_consequences() -> VisitorQuerySet:
    """Keep the visitors who had no success, and whom no row refers to that is to stay."""
    visitors = Visitor.objects.using(router.db_for_write(Visitor)).filter(successful_on=None)
    for relation in Visitor._meta.get_fields(include_hidden=True):
        if not isinstance(relation, ForeignObjectRel) or relation.many_to_many:
            continue
        # Who took their place does not need them; what was not counted goes with them.
        if relation.related_model not in (Visitor, UncountedTrigger):
            rows = relation.related_model._base_manager
            visitors = visitors.exclude(
                Exists(rows.filter(**{relation.field.name: OuterRef("pk")}))
            )
    return visitors


def _rolled_up(visitors: list[Visitor]) -> list[PurgedClicks]:
    """Count visitors by partner, day and sub ids; tests of a deal are in no number."""
    counts: Counter[tuple[Any, ...]] = Counter(
        (one.partner_id, day_of(one.referred_on), *(getattr(one, name) for name in SUB_IDS))
        for one in visitors
        if not one.is_test
    )
    names = ("partner_id", "day", *SUB_IDS)
    return [
        PurgedClicks(**dict(zip(names, kind, strict=True)), count=count)
        for kind, count in counts.items()
    ]


def _batches(rows: QuerySet[Any], size: int) -> Iterator[list[int]]:
    """Yield the keys of rows in pieces, so that none is asked for twice."""
    last = 0
    while ids := list(rows.filter(pk__gt=last).order_by("pk").values_list("pk", flat=True)[:size]):
        yield ids
        last = ids[-1]
