"""
Erasure and retention of personal data, and the removal of floods.

``blank`` erases the data of one person. ``purge`` deletes old visitors without a conversion, and
keeps their number. ``remove`` deletes a partner's visitors of some days without a conversion, and
counts them as filtered clicks. None deletes a conversion: its reference and its payout are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings as django_settings
from django.db import router, transaction
from django.db.models import Exists, F, ForeignObjectRel, Max, OuterRef, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext_noop

from affiliations import db
from affiliations.dates import Period
from affiliations.db import status_in
from affiliations.models import (
    Callback,
    CallbackAttempt,
    Conversion,
    FollowedTestLink,
    Partner,
    RollupState,
    UncreditedTrigger,
    Visitor,
)
from affiliations.models.callback import CallbackQuerySet
from affiliations.models.visitor import CLICK_FIELDS, SUB_IDS, VisitorQuerySet
from affiliations.reports import rollups

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser

__all__ = ["PersonalData", "blank", "personal_data", "remove"]

BATCH = 1000

#: Why a callback was cancelled: stored in English, shown in the reader's language.
BLANKED = gettext_noop("The user’s personal data was erased before the callback was delivered.")

#: The fields with personal data of a visitor, each with its empty value.
_BLANK = dict.fromkeys((*CLICK_FIELDS, "entry_point", "referrer"), "")


@dataclass
class PersonalData:
    """The numbers of rows that hold data of a person, or that were blanked."""

    visitors: int = 0
    callbacks: int = 0

    @property
    def rows(self) -> int:
        return self.visitors + self.callbacks


def personal_data(user: AbstractBaseUser) -> PersonalData:
    """
    Count the rows that ``blank()`` would blank.

    Args:
        user: The person.
    """
    return PersonalData(
        _visitors_of(user).count(), sum(callbacks.count() for callbacks in _callbacks_of(user))
    )


def blank(
    user: AbstractBaseUser,
    *,
    batch: int = BATCH,
    progress: Callable[[PersonalData], None] = lambda done: None,
) -> PersonalData:
    """
    Blank the data of a person.

    Call it before the account is deleted: afterwards the person's rows cannot be found.

    These are blanked:

    - the click id, the sub ids, the landing page and the referrer of the person's visitors,
    - the sub ids of these visitors' conversions, which stay otherwise,
    - the URLs and bodies of the callbacks about these visitors and about the person's purchases,
    - the messages and responses of the attempts to send these callbacks.

    In the Admin's history, earlier versions named callbacks by their URLs, and visitors by their
    landing pages. These names are replaced for all persons, since the callbacks may be purged.

    A callback that was not sent yet is cancelled, since it would tell the partner about the person.
    A callback that is being sent at this moment is skipped, and ``personal_data()`` still counts
    it: call ``blank()`` again.

    Args:
        user: The person.
        batch: The maximum number of rows that change in one transaction.
        progress: Called with the numbers so far after each transaction.

    Returns:
        The numbers of rows that were blanked.
    """
    done = PersonalData()
    # Visitors first, so that callbacks that are built from now on have no personal data.
    for ids in _batches(_visitors_of(user), batch):
        with rollups.locked_state() as state:
            rows = _visitors_of(user).filter(pk__in=ids)
            rollups.blank(state, rows)
            rows.exclude(click_id="").update(lost_click_id="erased")
            done.visitors += rows.update(**_BLANK)
            conversions = Conversion.objects.using(rows.db).filter(visitor__in=ids)
            conversions.update(**dict.fromkeys(SUB_IDS, ""))
        progress(done)
    for callbacks in _callbacks_of(user):
        for ids in _batches(callbacks, batch):
            done.callbacks += _blank_callbacks(ids)
            progress(done)
    _rename_in_history(batch)
    return done


def expired(before: datetime) -> Iterator[VisitorQuerySet]:
    """
    Yield, for each partner, the visitors before a time that can be deleted.

    A visitor is kept within the attribution window or, without a window, for the age of a session.
    It is also kept if it has a conversion, or if a row of the host refers to it.
    """
    now, session = timezone.now(), timedelta(seconds=django_settings.SESSION_COOKIE_AGE)
    for partner in Partner.objects.using(db.write_alias()).order_by("pk"):
        window = partner.attribution_window
        latest = min(before, now - (session if window is None else window))
        yield _deletable().filter(partner=partner, referred_on__lt=latest)


def purge(before: datetime, *, batch: int = BATCH) -> Iterator[int]:
    """
    Delete the visitors of ``expired()``, and yield the number deleted in each transaction.

    Reports still count them, but only by the most frequent sub ids of each day. A transaction
    deletes visitors of one partner only, so it changes only the daily clicks of this partner.
    """
    rollups.ensure_state()
    for visitors in expired(before):
        yield from _delete(visitors, rollups.keep_purged, batch)
    rollups.compact()


def unconverted(partner: Partner, period: Period) -> VisitorQuerySet:
    """Return the visitors of a partner in a period that ``remove()`` would delete."""
    return _deletable().filter(partner=partner, is_test=False, **period.within("referred_on"))


def remove(partner: Partner, period: Period, *, batch: int = BATCH) -> Iterator[int]:
    """
    Delete visitors of a partner in a period, and yield the number deleted in each transaction.

    Reports count them as filtered clicks. A visitor is kept if it has a conversion, or if a row of
    the host refers to it. The others are deleted even within the attribution window: what they
    order afterwards is not credited.

    Args:
        partner: The partner.
        period: The days of the clicks, as a ``Period`` of ``affiliations.reports``.
        batch: The maximum number of visitors that are deleted in one transaction.
    """
    rollups.ensure_state()
    visitors = unconverted(partner, period)
    # Without those who arrive from now on, or the removal would last as long as the flood.
    newest = visitors.aggregate(pk=Max("pk"))["pk"] or 0
    yield from _delete(
        visitors.filter(pk__lte=newest),
        lambda state, visitors: rollups.remove(state, partner, visitors),
        batch,
    )
    rollups.tidy(partner, period)


def _delete(
    visitors: VisitorQuerySet,
    account: Callable[[RollupState, list[Visitor]], None],
    batch: int,
) -> Iterator[int]:
    """Delete visitors after ``account`` has counted them; yield the number of each transaction."""
    rows = Visitor.objects.using(visitors.db)
    for ids in _batches(visitors, batch):
        with rollups.locked_state() as state:
            # The lock waits for transactions that are just crediting a visitor, and other purges.
            # Then the visitor is read again. On SQLite, the row of the state is the lock.
            list(rows.filter(pk__in=ids).order_by("pk").select_for_update().values_list("pk"))
            deleted = list(visitors.filter(pk__in=ids))
            account(state, deleted)
            rows.filter(pk__in=[visitor.pk for visitor in deleted]).delete()
        yield len(deleted)


def _visitors_of(user: AbstractBaseUser) -> VisitorQuerySet:
    # From the database that is written to: a replica may lag behind.
    visitors = Visitor.objects.using(db.write_alias())
    return visitors.filter(user=user.pk).exclude(**_BLANK)


def _callbacks_of(user: AbstractBaseUser) -> list[CallbackQuerySet]:
    """Return the callbacks of a person's purchases, and the others of the person's visitors."""
    with_text = Q(callback=OuterRef("pk")) & ~Q(message="", response_excerpt="")
    not_blank = ~Q(url="") | Exists(CallbackAttempt.objects.filter(with_text))
    callbacks = Callback.objects.using(db.write_alias()).filter(not_blank)
    # Two queries, since each has an index of its own.
    return [
        callbacks.filter(conversion__user=user.pk),
        callbacks.filter(conversion__visitor__user=user.pk).exclude(conversion__user=user.pk),
    ]


def _blank_callbacks(ids: list[int]) -> int:
    """Blank the callbacks that are not being sent; return how many these are."""
    alias = db.write_alias()
    with transaction.atomic(using=alias):
        rows = Callback.objects.using(alias).filter(pk__in=ids)
        # First, with one update: from here on no worker can claim them.
        rows.not_in_flight(db.now()).update(url="", body="", lease_token="", is_manual=False)
        blank = rows.filter(url="")
        waiting = blank.filter(status_in(Callback.Status.QUEUED))
        waiting.filter(delivered_on=None).update(status=Callback.Status.CANCELLED, reason=BLANKED)
        # The others were delivered before a resend.
        waiting.update(status=Callback.Status.DELIVERED)
        blanked = list(blank.values_list("pk", flat=True))
        CallbackAttempt.objects.using(alias).filter(callback__in=blanked).update(
            message="", response_excerpt=""
        )
    return len(blanked)


def _rename_in_history(batch: int) -> None:
    """Name visitors and callbacks by their numbers in the Admin's history, not by their URLs."""
    if not apps.is_installed("django.contrib.admin"):
        return
    from django.contrib.admin.models import LogEntry

    # 0.12 named a visitor by the path of the landing page.
    visitors = Q(content_type__model=Visitor._meta.model_name) & ~Q(object_repr=F("object_id"))
    callbacks = Q(content_type__model=Callback._meta.model_name, object_repr__contains="://")
    entries = LogEntry.objects.using(router.db_for_write(LogEntry))
    found = entries.filter(visitors | callbacks, object_id__isnull=False)
    found = found.filter(content_type__app_label=Callback._meta.app_label)
    for ids in _batches(found, batch):
        entries.filter(pk__in=ids).update(object_repr=F("object_id"))


def _deletable() -> VisitorQuerySet:
    """Return the visitors without a conversion, unless a row that must be kept refers to them."""
    visitors = Visitor.objects.using(db.write_alias()).filter(successful_on=None)
    for relation in Visitor._meta.get_fields(include_hidden=True):
        if not isinstance(relation, ForeignObjectRel) or relation.many_to_many:
            continue
        if relation.field.name == "instead_of":
            continue  # A click that lost to a code is kept no longer than other clicks.
        # A visitor that replaced them does not need them; the other two are deleted with them.
        if relation.related_model not in (Visitor, FollowedTestLink, UncreditedTrigger):
            rows = relation.related_model._base_manager
            visitors = visitors.exclude(
                Exists(rows.filter(**{relation.field.name: OuterRef("pk")}))
            )
    return visitors


def _batches(rows: QuerySet[Any], size: int) -> Iterator[list[int]]:
    """Yield the primary keys of rows in batches; no key twice, even if its row still matches."""
    last = 0
    while ids := list(rows.filter(pk__gt=last).order_by("pk").values_list("pk", flat=True)[:size]):
        yield ids
        last = ids[-1]
