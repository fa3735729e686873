"""
Decide whether a conversion is paid for: by somebody, by a signal, by its day; and tell the partner.

A status changes by compare-and-set, in one transaction with the callbacks that tell of it. This
module knows no HTTP and no request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from django.db import DatabaseError, InterfaceError, transaction
from django.db.models import Min
from django.utils import timezone

from affiliations import batches, corrections
from affiliations.callbacks import outbox
from affiliations.conversions import database
from affiliations.exceptions import NotCounted, Reason
from affiliations.models import Conversion, Partner
from affiliations.models.conversion import reference_key
from affiliations.models.status import has_status
from affiliations.signals import announce, conversion_decided

if TYPE_CHECKING:
    from django.contrib.auth.models import User

logger = logging.getLogger("affiliations")

Status = Conversion.Status

#: What each decision can become. Who has approved something can still reject it, as when goods are
#: returned; what was rejected can be brought back.
TRANSITIONS: Mapping[str, Sequence[str]] = {
    Status.PENDING: (Status.APPROVED, Status.REJECTED),
    Status.APPROVED: (Status.REJECTED,),
    Status.REJECTED: (Status.PENDING, Status.APPROVED),
}

#: So many are read at a time of those whose time of approval has come.
_BATCH = 100


def decide(
    conversion: Conversion, status: str, *, reason: str = "", by: User | None = None
) -> bool:
    """
    Approve or reject a conversion, or bring a rejected one back, and tell the partner.

    ``status`` is what it becomes, ``reason`` why and ``by`` who says so. Each event is told once; a
    rejection calls back what the partner has not heard of yet, and is told where they have. The
    conversion is one that was read: ``False``, and nothing changes, where somebody else has decided
    since, or where it is decided so already. ``ValueError`` where that is no way to go, such as
    from approved to pending.
    """
    if status == conversion.status:
        return False
    if status not in TRANSITIONS[conversion.status]:
        raise ValueError(f"A conversion that is {conversion.status} cannot become {status}.")
    now = timezone.now()
    changes = {
        "status": status,
        "reason": reason[:255],
        "approve_on": None,
        "decided_on": None if status == Status.PENDING else now,
        "decided_by": by,
    }
    with transaction.atomic(using=database()):
        same = Conversion.objects.using(database()).filter(
            has_status(conversion.status), pk=conversion.pk
        )
        if not same.update(**changes):
            return False
        for name, value in changes.items():
            setattr(conversion, name, value)
        corrections.follow(conversion)
        outbox.tell_decision(conversion)
        announce(conversion_decided, using=database(), conversion=conversion)
    return True


def decide_by_reference(
    trigger: str,
    reference: str,
    status: str,
    *,
    reason: str = "",
    by: Callable[[], User | None] = lambda: None,
) -> Conversion:
    """
    Decide what ``trigger`` has counted for ``reference``, and return it.

    For what nobody looks at, such as a payment that is told of, perhaps twice: only what is pending
    is approved, and not what somebody is to look at. What was rejected stays so. ``NotCounted``,
    with the reason, where nothing changes; that there is none costs one query. ``by`` is asked only
    where there is something to decide.
    """
    if not reference:
        raise NotCounted(Reason.NO_REFERENCE)  # which is what many others have as well
    conversion = (
        Conversion.objects.using(database())
        .select_related("visitor", "partner")
        .filter(trigger=trigger, reference_key=reference_key(reference))
        .first()
    )
    if conversion is None:
        raise NotCounted(Reason.NO_CONVERSION, reference=reference)
    rejects = status == Status.REJECTED
    before = (Status.PENDING, Status.APPROVED) if rejects else (Status.PENDING,)
    # Also where somebody has looked, rejected it, and had it wait again.
    if conversion.status == Status.PENDING and conversion.doubt and not rejects:
        raise NotCounted(Reason.SCREENED, conversion.visitor, reference)
    if conversion.status in before and _decided(conversion, before, status, reason, by()):
        return conversion
    raise NotCounted(Reason.ALREADY_COUNTED, conversion.visitor, reference)


def approve_due(now: datetime | None = None) -> int:
    """
    Approve what was to be approved by now, if nobody objected; return how many.

    What fails is logged, and left to the next one.
    """
    return sum(approve_in_batches(now))


def approve_in_batches(now: datetime | None = None) -> Iterator[int]:
    """
    Approve the same a hundred at a time; yield how many of each hundred.

    For whoever sends, so that much that is due at once keeps no callback waiting, and no process
    from ending.
    """
    due = Conversion.objects.using(database()).filter(
        status=Status.PENDING, approve_on__lte=now or timezone.now()
    )
    left: list[int] = []
    try:
        while batch := list(
            due.exclude(pk__in=left)
            .select_related("visitor", "partner")
            .order_by("approve_on")[:_BATCH]
        ):
            approved = [conversion.pk for conversion in batch if _approved(conversion)]
            left += {conversion.pk for conversion in batch}.difference(approved)
            yield len(approved)
    except (DatabaseError, InterfaceError):
        logger.exception("What is due could not be approved.")


def next_approval() -> datetime | None:
    """Return when the next conversion is to be approved by itself, if any is."""
    waiting = Conversion.objects.using(database()).filter(status=Status.PENDING)
    next_on: datetime | None = waiting.aggregate(next=Min("approve_on"))["next"]
    return next_on


def stop_for_fraud(partner: Partner, *, reason: str, by: User | None = None) -> int:
    """
    End the deal with a partner who cheats, in one transaction; return how many were rejected.

    The partner is made inactive and the link to their page revoked, what is undecided is rejected
    with the reason, what waits to be told is cancelled, and nothing of it is told. What is approved
    stays so until somebody decides. Who is credited at this very moment is missed: say it again.
    """
    now = timezone.now()
    theirs = Conversion.objects.using(database()).filter(partner=partner)
    # Read outside, since on SQLite a transaction that reads before it writes would fail.
    keys = list(theirs.filter(status=Status.PENDING).order_by("pk").values_list("pk", flat=True))
    count = 0
    with transaction.atomic(using=database()):
        # In the order of a decision, which holds its conversion when it asks for the others.
        for start in range(0, len(keys), _BATCH):
            some = Conversion.objects.using(database()).filter(pk__in=keys[start : start + _BATCH])
            batches.hold(some)
            count += some.filter(has_status(Status.PENDING)).update(
                status=Status.REJECTED,
                reason=reason[:255],
                approve_on=None,
                decided_on=now,
                decided_by=by,
            )
        Partner.objects.filter(pk=partner.pk).update(active=False, page_key="")
        outbox.cancel_all(partner, reason)
        rejected = theirs.filter(status=Status.REJECTED, decided_on=now).order_by("pk")
        transaction.on_commit(
            lambda: [
                conversion_decided.send_robust(Conversion, conversion=conversion)
                for conversion in rejected.select_related("visitor", "partner")
            ],
            using=database(),
            robust=True,
        )
    partner.active, partner.page_key = False, ""
    return count


def _decided(
    conversion: Conversion, before: Sequence[Status], status: str, reason: str, by: User | None
) -> bool:
    """
    Decide a conversion that was in one of ``before`` when it was read.

    Where somebody has decided since, it may be in one that comes after: a refund must not be lost
    because the payment is told of at the same moment.
    """
    for expected in before[before.index(Status(conversion.status)) :]:
        conversion.status = expected
        if decide(conversion, status, reason=reason, by=by):
            return True
    return False


def _approved(conversion: Conversion) -> bool:
    """Approve one whose time has come; ``False`` where it cannot be, or is decided by somebody."""
    try:
        return decide(conversion, Status.APPROVED)
    except Exception:
        logger.exception("Conversion %s could not be approved.", conversion.pk)
        return False
