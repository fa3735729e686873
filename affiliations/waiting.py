"""What waits for staff, as the overview of the Admin and the digest of the notices count it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db.models import Model, QuerySet
from django.urls import NoReverseMatch, reverse
from django.utils.http import urlencode
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from affiliations import db
from affiliations.callbacks.maintenance import HEALTH_DAYS
from affiliations.models import Callback, Conversion, Subscription


def admin_path(
    model: type[Model],
    page: str,
    *args: Any,
    query: Mapping[str, Any],
    current_app: str | None = None,
) -> str:
    """Return the path of a page of a model; empty if this site of the Admin does not have it."""
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}"
    try:
        path = reverse(name, args=args, current_app=current_app)
    except NoReverseMatch:
        return ""
    return f"{path}?{urlencode(query)}" if query else path


@dataclass(frozen=True)
class Kind:
    """A kind of rows that wait for staff, and the page of the Admin that lists them."""

    label: Any
    rows: QuerySet[Any]
    #: The number in words, as a lazy plural, and the words instead of 0.
    words: Any
    nothing: Any = ""
    page: str = "changelist"
    query: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def model(self) -> type[Model]:
        return self.rows.model


def kinds() -> Iterator[Kind]:
    """Yield each kind; its rows are found by an index, and not read yet."""
    yield Kind(
        _("need review"),
        Conversion.objects.review_queue(),
        ngettext_lazy(
            "%(count)s conversion needs review", "%(count)s conversions need review", "count"
        ),
        _("Nothing needs review."),
        page="review",
    )
    yield Kind(
        _("suspended endpoints"),
        Subscription.objects.suspended(),
        ngettext_lazy("%(count)s endpoint suspended", "%(count)s endpoints suspended", "count"),
        _("No endpoint is suspended or paused."),
        query={"callbacks": "suspended"},
    )
    yield Kind(
        _("paused endpoints"),
        Subscription.objects.paused(),
        ngettext_lazy("%(count)s endpoint paused", "%(count)s endpoints paused", "count"),
        query={"callbacks": "paused"},
    )
    since = db.now() - timedelta(days=HEALTH_DAYS)
    yield Kind(
        _("callbacks given up in the past %(days)s days") % {"days": HEALTH_DAYS},
        Callback.objects.gave_up(since).filter(is_test=False),
        ngettext_lazy("%(count)s callback given up", "%(count)s callbacks given up", "count"),
        _("No callback was given up."),
        query={"gave_up": HEALTH_DAYS, "is_test__exact": 0},
    )
