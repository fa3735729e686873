"""The log messages about callbacks, for a developer: sent or not, and why."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import urlsplit

from affiliations import logs
from affiliations.callbacks.cancellations import cure_of
from affiliations.conf import settings
from affiliations.models import Callback


def tell_queued(callbacks: Iterable[Callback]) -> None:
    """Log new callbacks that are not sent, or that wait for a process of their own."""
    for callback in callbacks:
        if callback.status == Callback.Status.CANCELLED:
            tell(callback, "is not sent: %s %s", callback.reason, cure_of(callback.reason))
        elif process := needed_process():
            tell(callback, "waits. Start %s.", process)


def needed_process() -> str:
    """Return what must run beside the web server to send callbacks, as the dispatcher says."""
    with suppress(ImportError):  # A system check reports it.
        return str(getattr(settings.callback_dispatcher, "needs", ""))
    return ""


def host_of(url: str) -> str:
    """Return the host and port of a callback URL; empty if it has none, as 0.12 stored any text."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2].lower()
    except ValueError:
        return ""


def tell(
    callback: Callback, message: str, *args: object, level: int = logging.DEBUG, reason: str = ""
) -> None:
    """Log a message about a callback, which begins with its id and its host."""
    logs.tell(
        f"callback %s to %s {message}",
        callback.pk,
        host_of(callback.url),
        *args,
        level=level,
        partner=callback.partner_id,
        conversion=callback.conversion_id,
        callback=callback.pk,
        reason=reason,
    )
