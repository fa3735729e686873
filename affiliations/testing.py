"""
For the tests of a host: start a referral, and see what a partner would be told.

All of it works with Django's ``TestCase``, where nothing is ever committed, as well as with
``TransactionTestCase`` and pytest-django.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from django.conf import settings as django_settings
from django.db import transaction
from django.db.models.signals import post_save, pre_save
from django.test.utils import TestContextDecorator
from django.utils import timezone

from affiliations import visitors
from affiliations.conf import settings
from affiliations.models import Callback, Partner, Visitor

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.test import AsyncClient, Client


def start_referral(client: Client, partner: Partner, url: str = "/", **labels: str) -> Visitor:
    """
    Follow a partner's link, and return the visitor to whom all is credited that the client does.

    Args:
        client: A test client. Log somebody in before, and the visitor has that user.
        partner: An active one.
        url: The page of this site that the link leads to. It need not exist.
        labels: ``click_id`` and ``sub1`` to ``sub5``, the partner's own labels of the click.

    Raises:
        AssertionError: Where the link was not counted.
    """
    response = client.get(partner.link(url, **labels), secure=django_settings.SECURE_SSL_REDIRECT)
    return _counted(visitors.current(response.wsgi_request), partner, response.status_code)


async def astart_referral(
    client: AsyncClient, partner: Partner, url: str = "/", **labels: str
) -> Visitor:
    """Do what ``start_referral`` does, with an async client."""
    response = await client.get(
        partner.link(url, **labels), secure=django_settings.SECURE_SSL_REDIRECT
    )
    visitor = await visitors.acurrent(response.asgi_request)
    return _counted(visitor, partner, response.status_code)


def _counted(visitor: Visitor | None, partner: Partner, status: int) -> Visitor:
    """Return the visitor, unless the link has led to nobody or left an earlier one in place."""
    if visitor is not None and (visitor.partner == partner or settings.first_click_wins):
        return visitor
    raise AssertionError(
        f"The link of {partner} was not counted; the answer was {status}. Is the partner active, "
        "is nothing before our middleware that answers, and does AFFILIATE_CONSENT agree?"
    )


class RecordedCallbacks(Sequence[Callback]):
    """The callbacks of a block, oldest first, but for those that were rolled back."""

    def __init__(self) -> None:
        self._written: list[tuple[Callback, BaseDatabaseWrapper, Callable[[], None]]] = []
        self._committed: set[str] = set()

    def add(self, callback: Callback, using: str) -> None:
        """Record a callback that has just been written to the database ``using``."""
        mark = partial(self._committed.add, callback.webhook_id)
        self._written.append((callback, transaction.get_connection(using), mark))
        transaction.on_commit(mark, using=using)

    def _standing(self) -> list[Callback]:
        return [
            callback
            for callback, connection, mark in self._written
            # In a TestCase the commit never comes, but what waits for it is known. A rollback, be
            # it to a savepoint, takes it off that list.
            if callback.webhook_id in self._committed
            or any(function is mark for _, function, *_ in connection.run_on_commit)
        ]

    def __getitem__(self, index: Any) -> Any:
        return self._standing()[index]

    def __len__(self) -> int:
        return len(self._standing())

    def __eq__(self, other: object) -> bool:
        return self._standing() == other

    __hash__ = None  # type: ignore[assignment] # as a list

    def __repr__(self) -> str:
        return repr(self._standing())


class record_callbacks(TestContextDecorator):  # noqa: N801 -- used as a function, as Django's are
    """
    Record callbacks instead of sending them.

    As a context manager it gives the callbacks that are queued inside, as a sequence that grows
    with each. As a decorator of a function or of a ``TestCase`` it hands them over under the name
    that is given as ``kwarg_name`` or ``attr_name``.

    A recorded callback counts as delivered, as at a partner who always answers. So nothing sends
    it, neither now nor later, and a rejection is told as it would be on the real site. What is
    cancelled, such as the callbacks of a test of the deal, goes to nobody and is not recorded.
    """

    def enable(self) -> RecordedCallbacks:
        """Begin to record."""
        self._recorded = RecordedCallbacks()
        pre_save.connect(self._deliver, sender=Callback)
        post_save.connect(self._record, sender=Callback)
        return self._recorded

    def disable(self) -> None:
        """Leave the next callbacks to the dispatcher; what was recorded can still be read."""
        pre_save.disconnect(self._deliver, sender=Callback)
        post_save.disconnect(self._record, sender=Callback)

    def _deliver(self, instance: Callback, **kwargs: object) -> None:
        # Before the row is written, so that nobody ever finds it due.
        if instance._state.adding and instance.status == Callback.Status.QUEUED:
            instance.status = Callback.Status.DELIVERED
            instance.attempt_count = 1
            instance.delivered_on = timezone.now()

    def _record(self, instance: Callback, created: bool, using: str, **kwargs: object) -> None:
        # Without a conversion it is a test callback, which is written after it was sent.
        is_told = instance.status == Callback.Status.DELIVERED and instance.conversion is not None
        if created and is_told:
            self._recorded.add(instance, using)
