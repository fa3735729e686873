"""
Helpers for the host's tests: follow a partner's link, and record callbacks.

They work with Django's ``TestCase``, which never commits, as well as with ``TransactionTestCase``
and pytest-django.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import overload

from django.conf import settings as django_settings
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.signals import post_save, pre_save
from django.test import AsyncClient, Client
from django.test.utils import TestContextDecorator
from django.utils import timezone

from affiliations.conf import settings
from affiliations.models import Callback, Partner, Visitor
from affiliations.tracking import visitors


def start_referral(client: Client, partner: Partner, url: str = "/", **labels: str) -> Visitor:
    """
    Follow a partner's link, and return the visitor. Later conversions of the client are credited.

    Args:
        client: A test client. If a user is logged in, the visitor has that user.
        partner: An active partner.
        url: The page of this site that the link leads to. It need not exist.
        labels: ``click_id`` and ``sub1`` to ``sub5``, the partner's own ids of the click.

    Raises:
        AssertionError: If the link was not counted.
    """
    response = client.get(partner.link(url, **labels), secure=django_settings.SECURE_SSL_REDIRECT)
    return _counted(visitors.current_visitor(response.wsgi_request), partner, response.status_code)


async def astart_referral(
    client: AsyncClient, partner: Partner, url: str = "/", **labels: str
) -> Visitor:
    """Do what ``start_referral()`` does, with an async client."""
    response = await client.get(
        partner.link(url, **labels), secure=django_settings.SECURE_SSL_REDIRECT
    )
    visitor = await visitors.acurrent_visitor(response.asgi_request)
    return _counted(visitor, partner, response.status_code)


def _counted(visitor: Visitor | None, partner: Partner, status: int) -> Visitor:
    """Return the visitor, unless the click was not counted; then raise ``AssertionError``."""
    if visitor is not None and (visitor.partner == partner or settings.first_click_wins):
        return visitor
    raise AssertionError(
        f"The link of {partner} was not counted; the status was {status}. Is the partner active, "
        "does no other middleware respond first, and does AFFILIATE_CONSENT return True?"
    )


class RecordedCallbacks(Sequence[Callback]):
    """The callbacks of a ``with`` block, oldest first, without those that were rolled back."""

    def __init__(self) -> None:
        self._written: list[tuple[Callback, BaseDatabaseWrapper, Callable[[], None]]] = []
        self._committed: set[str] = set()

    def add(self, callback: Callback, using: str) -> None:
        mark = partial(self._committed.add, callback.webhook_id)
        self._written.append((callback, transaction.get_connection(using), mark))
        transaction.on_commit(mark, using=using)

    def _not_rolled_back(self) -> list[Callback]:
        return [
            callback
            for callback, connection, mark in self._written
            # A TestCase never commits, but keeps the functions that wait for the commit. A
            # rollback, to a savepoint as well, removes them.
            if callback.webhook_id in self._committed
            or any(function is mark for _, function, *_ in connection.run_on_commit)
        ]

    @overload
    def __getitem__(self, index: int) -> Callback: ...
    @overload
    def __getitem__(self, index: slice) -> list[Callback]: ...
    def __getitem__(self, index: int | slice) -> Callback | list[Callback]:
        return self._not_rolled_back()[index]

    def __len__(self) -> int:
        return len(self._not_rolled_back())

    def __eq__(self, other: object) -> bool:
        return self._not_rolled_back() == other

    __hash__ = None  # type: ignore[assignment] # as of a list

    def __repr__(self) -> str:
        return repr(self._not_rolled_back())


class record_callbacks(TestContextDecorator):  # noqa: N801 -- used as a function, as Django's are
    """
    Record callbacks instead of sending them.

    As a context manager it returns a sequence that grows with each callback that is queued inside.
    As a decorator of a function or of a ``TestCase`` it passes the sequence under the name that is
    given as ``kwarg_name`` or ``attr_name``.

    A recorded callback counts as delivered, so it is never sent, and the callback of a later
    rejection follows as on the real site. Cancelled callbacks, such as those of a test click, are
    not recorded.
    """

    # Django's stubs say what override_settings returns.
    def __enter__(self) -> RecordedCallbacks:  # type: ignore[override]
        return self.enable()

    def enable(self) -> RecordedCallbacks:
        self._recorded = RecordedCallbacks()
        pre_save.connect(self._deliver, sender=Callback)
        post_save.connect(self._record, sender=Callback)
        return self._recorded

    def disable(self) -> None:
        pre_save.disconnect(self._deliver, sender=Callback)
        post_save.disconnect(self._record, sender=Callback)

    def _deliver(self, instance: Callback, **kwargs: object) -> None:
        # Before the row is written, so that no worker finds it due.
        if instance._state.adding and instance.status == Callback.Status.QUEUED:
            instance.status = Callback.Status.DELIVERED
            instance.attempt_count = 1
            instance.delivered_on = timezone.now()

    def _record(self, instance: Callback, created: bool, using: str, **kwargs: object) -> None:
        # A callback without a conversion is a test callback, which is written after it was sent.
        is_delivered = (
            instance.status == Callback.Status.DELIVERED and instance.conversion is not None
        )
        if created and is_delivered:
            self._recorded.add(instance, using)
