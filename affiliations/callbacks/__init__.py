"""Callbacks (postbacks) to the partners."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from affiliations.lazy import lazy_exports

__all__ = [
    "Health",
    "deliver",
    "health",
    "resend",
    "resend_anew",
    "resume",
    "send_test_callback",
]

if TYPE_CHECKING:
    from affiliations.callbacks.maintenance import Health, health
    from affiliations.callbacks.outbox import resend, resend_anew
    from affiliations.callbacks.suspension import resume
    from affiliations.callbacks.test_callback import send_test_callback
    from affiliations.callbacks.worker import Summary
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "maintenance": ["Health", "health"],
            "outbox": ["resend", "resend_anew"],
            "suspension": ["resume"],
            "test_callback": ["send_test_callback"],
        },
    )


def deliver(callback_ids: Collection[int]) -> "Summary":
    """
    Send callbacks now, in this process, and record the results.

    Callbacks that are not due are left out.

    Args:
        callback_ids: The primary keys of the callbacks.

    Returns:
        The number of attempts, as ``delivered`` and ``failed``.
    """
    # Not a lazy export: the import of this name would load requests.
    from affiliations.callbacks import worker

    return worker.deliver(callback_ids)
