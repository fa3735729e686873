"""
The news for partners: the rows that no notice has mentioned yet.

Each row has a flag, which is written with the decision or the statement. So a transaction that
commits late is not missed. A comparison with the time of the last run would miss it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial, reduce
from operator import or_
from typing import Any

from django.db import close_old_connections, transaction
from django.db.models import Count, F, Q, QuerySet

from affiliations import db
from affiliations.models import Conversion, NoticeStart, Partner, Settlement, Subscription
from affiliations.models.conversion_queries import ConversionQuerySet
from affiliations.models.settlement import SettlementQuerySet
from affiliations.models.subscription import SubscriptionQuerySet
from affiliations.partner_pages.serializers import with_related

#: The number of conversions that a notice lists; it counts all.
LISTED = 50
#: The maximum of addresses in a batch, whose notices are collected and marked together.
ADDRESSES = 50
#: The number of conversions after which no further address is added to a batch.
_ROWS = 2000
#: Rows that one statement changes.
_CHUNK = 500
#: How often the app tries to write that a notice was sent.
_TRIES = 3
#: Conditions in one statement: SQLite allows a thousand.
_CONDITIONS = 200


@dataclass
class Decided:
    """The conversions of a partner that have the same status."""

    keys: list[int] = field(default_factory=list)
    #: The payouts after adjustments, by currency.
    payouts: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))

    def add(self, conversion: Conversion) -> None:
        self.keys.append(conversion.pk)
        if (payout := conversion.current_payout) is not None:
            self.payouts[conversion.payout_currency] += payout


@dataclass
class News:
    """The news for one partner."""

    partner: Partner
    decided: defaultdict[str, Decided] = field(default_factory=lambda: defaultdict(Decided))
    #: The first ``LISTED`` of these conversions.
    listed: list[Conversion] = field(default_factory=list)
    statements: list[Settlement] = field(default_factory=list)
    failing: list[Subscription] = field(default_factory=list)

    @property
    def count(self) -> int:
        """The number of conversions."""
        return sum(len(decided.keys) for decided in self.decided.values())

    def __bool__(self) -> bool:
        return bool(self.decided or self.statements or self.failing)


class Backlog:
    """The partners with news at the beginning of a run."""

    def __init__(self) -> None:
        self.is_first = not NoticeStart.objects.using(db.write_alias()).exists()
        counts = Counter[int]()
        if not self.is_first:
            by_partner = _conversions().order_by().values_list("partner").annotate(Count("pk"))
            counts.update(dict(by_partner))
            counts.update(set(_statements().order_by().values_list("partner", flat=True)))
        partners = _partners().order_by("pk").values_list("pk", "email")
        self._emails: dict[int, str] = dict(partners)
        #: The partners with news who get no notices.
        self.others = sorted(counts.keys() - self._emails.keys())
        failing = _failing().values_list("partner", flat=True)
        self._counts = counts | Counter(set(failing) & self._emails.keys())

    def batches(self) -> Iterator[list[list[News]]]:
        """Yield batches: the news for each address, which several partners may share."""
        batch: list[list[int]] = []
        rows = 0
        for partners in self._addresses():
            batch.append(partners)
            rows += sum(self._counts[partner] for partner in partners)
            if rows >= _ROWS or len(batch) == ADDRESSES:
                yield self._collect(batch)
                batch, rows = [], 0
        if batch:
            yield self._collect(batch)

    def _addresses(self) -> list[list[int]]:
        by_address: defaultdict[str, list[int]] = defaultdict(list)
        for partner, email in self._emails.items():
            if partner in self._counts:
                by_address[address_key(email)].append(partner)
        return list(by_address.values())

    def _collect(self, batch: list[list[int]]) -> list[list[News]]:
        keys = [partner for partners in batch for partner in partners]
        # Read again: a partner may have a new address by now, or want no notices any more.
        rows = list(_partners().filter(pk__in=keys).order_by("pk"))
        found = collect(rows, failing_only=self.is_first)
        by_address: defaultdict[str, list[News]] = defaultdict(list)
        for news in filter(None, found):
            by_address[address_key(news.partner.email)].append(news)
        return list(by_address.values())


def address_key(email: str) -> str:
    """Return the same text for addresses that are the same: only the host ignores case."""
    local, at, host = email.strip().rpartition("@")
    return f"{local}{at}{host.lower()}"


def collect(partners: Collection[Partner], *, failing_only: bool = False) -> list[News]:
    """
    Read the news for partners, with a bounded number of queries.

    Conversions and statements are not read if ``failing_only``.
    """
    found = {partner.pk: News(partner) for partner in partners}
    if not failing_only:
        for conversion in db.by_key(with_related(_conversions().filter(partner__in=found))):
            news = found[conversion.partner_id]
            news.decided[conversion.status].add(conversion)
            if len(news.listed) < LISTED:
                news.listed.append(conversion)
        for statement in _statements().filter(partner__in=found).order_by("pk"):
            found[statement.partner_id].statements.append(statement)
    for subscription in _failing().filter(partner__in=found).order_by("pk"):
        found[subscription.partner_id].failing.append(subscription)
    return list(found.values())


def mark(told: Iterable[News]) -> None:
    """
    Record that the notices were sent. A conversion with another status by now stays due.

    Each chunk is a transaction of its own.
    """
    told = list(told)
    keys: defaultdict[str, list[int]] = defaultdict(list)
    for news in told:
        for status, decided in news.decided.items():
            keys[status] += decided.keys
    for status, of_status in keys.items():
        _clear(Conversion, of_status, db.status_in(status))
    _clear(Settlement, [statement.pk for news in told for statement in news.statements])
    failing = [
        Q(pk=subscription.pk, failing_since=subscription.failing_since)
        for news in told
        for subscription in news.failing
    ]
    subscriptions = Subscription.objects.using(db.write_alias())
    for start in range(0, len(failing), _CONDITIONS):
        same = subscriptions.filter(reduce(or_, failing[start : start + _CONDITIONS]))
        _write(partial(same.update, noticed_failing_since=F("failing_since")))


def begin() -> None:
    """Send no notices about anything that was decided before the first run."""
    for rows in (_conversions(), _statements()):
        _clear_all(rows)
    NoticeStart.objects.using(db.write_alias()).get_or_create(pk=1)


def leave_out(partners: list[int]) -> None:
    """Clear the flags of the news for partners who get no notices."""
    for start in range(0, len(partners), _CHUNK):
        some = partners[start : start + _CHUNK]
        for rows in (_conversions(), _statements()):
            _clear_all(rows.filter(partner__in=some))


def _clear_all(rows: QuerySet[Any]) -> None:
    while keys := list(rows.order_by().values_list("pk", flat=True)[:_ROWS]):
        _clear(rows.model, keys)


def _clear(model: type[Conversion | Settlement], keys: list[int], *still: Any) -> None:
    alias = db.write_alias()
    rows = model._base_manager.using(alias)
    keys = sorted(keys)

    def clear(chunk: QuerySet[Any]) -> None:
        with transaction.atomic(using=alias):
            db.lock_rows(chunk)
            chunk.filter(*still).update(notice_due=False)

    for start in range(0, len(keys), _CHUNK):
        _write(partial(clear, rows.filter(pk__in=keys[start : start + _CHUNK])))


def _write(change: Callable[[], object]) -> None:
    """Write that notices were sent; try again after a lock or a lost connection."""
    tries_left = _TRIES
    while True:
        try:
            change()
            return
        except Exception as error:
            tries_left -= 1
            if not tries_left or not db.is_passing(error):
                raise
            close_old_connections()


# All read from the database that is written to. A replica that lags would repeat notices.


def _partners() -> Any:
    return Partner.objects.using(db.write_alias()).noticed()


def _conversions() -> ConversionQuerySet:
    return Conversion.objects.using(db.write_alias()).notice_due()


def _statements() -> SettlementQuerySet:
    return Settlement.objects.using(db.write_alias()).notice_due()


def _failing() -> SubscriptionQuerySet:
    return Subscription.objects.using(db.write_alias()).notice_due()
