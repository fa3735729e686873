"""The story of a referral on a page: told in plain words, with a link to each row in it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from django.utils.timesince import timesince
from django.utils.translation import gettext as _

from affiliations import stories
from affiliations.admin.pages import TONES, may_view
from affiliations.models import Callback, CallbackAttempt, Conversion

if TYPE_CHECKING:
    from datetime import datetime

    from django.db.models import Model
    from django.http import HttpRequest

    from affiliations.admin.pages import RowPagesMixin

#: What turns the direction of a sentence in which a visitor's text stands.
_DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def told(
    model_admin: RowPagesMixin,
    request: HttpRequest,
    visitor_id: int,
    conversion_id: int | None = None,
) -> dict[str, Any]:
    """
    Return the story of a visitor for a template, and the rows that it is about.

    With ``conversion_id`` the callbacks are those of one conversion. Who may not look at callbacks
    is told of none, and nobody is led to what they may not look at.
    """
    hears, counts = may_view(request, Callback), may_view(request, Conversion)
    (story,) = stories.tell([visitor_id])
    visitor = story.visitor
    counted = sorted(visitor.conversions.all(), key=lambda row: row.pk)
    callbacks: list[Callback] = [
        callback
        for conversion in counted
        for callback in sorted(conversion.callbacks.all(), key=lambda row: row.pk)
        if hears and conversion_id in (None, conversion.pk)
    ]
    return {
        "story": [
            (line.on, _DIRECTION.sub("", line.text), _url(model_admin, request, line.about))
            for line in story.lines
            if hears or not isinstance(line.about, (Callback, CallbackAttempt))
        ],
        "counted": [
            (
                conversion,
                model_admin.link_url(conversion),
                TONES[conversion.status],
                waited(conversion),
            )
            for conversion in counted
            if counts and conversion.pk != conversion_id
        ],
        "told": [
            (one, model_admin.link_url(one), TONES[one.status], _(one.reason)) for one in callbacks
        ],
    }


def waited(conversion: Conversion) -> str:
    """Return how long it took from the click to what was counted."""
    return since(conversion.visitor.referred_on, conversion.created_on)


def since(start: datetime, end: datetime) -> str:
    """Return the time between two moments in words; less than a minute is nearly none."""
    minutes = (end - start).total_seconds() / 60
    return timesince(start, end) if minutes >= 1 else _("less than a minute")


def _url(model_admin: RowPagesMixin, request: HttpRequest, row: Model) -> str:
    """Return the address of what a line is about; an attempt stands on its callback's page."""
    if isinstance(row, CallbackAttempt):
        url = model_admin.link_url(row.callback)
        return f"{url}#attempts-group" if url else ""
    return model_admin.link_url(row) if may_view(request, type(row)) else ""
