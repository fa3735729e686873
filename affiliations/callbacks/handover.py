"""Hand callbacks over to whoever sends them."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import router, transaction

from affiliations.conf import settings
from affiliations.models import Callback


def after_commit(callback_ids: Sequence[int]) -> None:
    """Give them to the dispatcher, once they are committed."""
    if callback_ids:
        transaction.on_commit(
            # No partial: Django 5.2 logs the __qualname__ of what has failed here.
            lambda: settings.callback_dispatcher(callback_ids),
            using=router.db_for_write(Callback),
            robust=True,
        )
