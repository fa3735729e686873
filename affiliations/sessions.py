"""
What a session keeps of a referral: the visitor's id, and the clicks that wait for consent.

Nothing here begins or reads a session without need: a browser without one stays without.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from affiliations.conf import settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.contrib.sessions.backends.base import SessionBase
    from django.http import HttpRequest

    from affiliations.models import Visitor

#: A click that waits: the key of the partner, and what the visitor's row will hold.
Waiting = tuple[int, dict[str, Any]]

#: So many clicks wait, and so many characters of them: a session may be kept in a cookie of 4 KB,
#: in which the host's own must have room as well.
_ROOM, _CHARACTERS = 5, 3_000


def remembered(request: HttpRequest) -> int | None:
    """Return the id of the visitor that the session remembers; may read the session."""
    session = _session(request)
    visitor_id = None if session is None else session.get(settings.session_key)
    return visitor_id if isinstance(visitor_id, int) else None


def is_absent(request: HttpRequest) -> bool:
    """Tell, without reading the session, whether it is certain that it remembers nobody."""
    session = _session(request)
    if session is None:
        return True
    return session.accessed and session.get(settings.session_key) is None


def remember(request: HttpRequest, visitor: Visitor) -> None:
    """Let the session remember ``visitor``."""
    if (session := getattr(request, "session", None)) is not None:
        session[settings.session_key] = visitor.pk


def restore(request: HttpRequest, visitor_id: int | None) -> None:
    """Let the session remember whom it did before, or nobody."""
    forget(request)
    if visitor_id is not None:
        request.session[settings.session_key] = visitor_id


def forget(request: HttpRequest) -> None:
    """Let the session remember nobody."""
    if (session := _session(request)) is not None:
        session.pop(settings.session_key, None)


def wait(request: HttpRequest, click: Waiting) -> Sequence[Waiting]:
    """
    Let a click wait; return those for which there is no room.

    These are the oldest, or the latest where the first click wins.
    """
    session: SessionBase | None = getattr(request, "session", None)
    if session is None or _size([click]) > _CHARACTERS:
        return [click]
    waiting, dropped = [*session.get(_waiting_key(), []), click], []
    while len(waiting) > _ROOM or _size(waiting) > _CHARACTERS:
        dropped.append(waiting.pop(-1 if settings.first_click_wins else 0))
    session[_waiting_key()] = waiting
    return dropped


def take_waiting(request: HttpRequest) -> Sequence[Waiting]:
    """Take out the clicks that wait, oldest first."""
    session = _session(request)
    waiting: Sequence[Waiting] = [] if session is None else session.pop(_waiting_key(), [])
    return waiting


def put_back(request: HttpRequest, waiting: Sequence[Waiting]) -> None:
    """Let clicks wait that were taken out."""
    request.session[_waiting_key()] = waiting


def _size(waiting: Sequence[Waiting]) -> int:
    """Return how many characters a session needs for these clicks."""
    return len(json.dumps(waiting))


def _waiting_key() -> str:
    return f"{settings.session_key}_waiting"


def _session(request: HttpRequest) -> SessionBase | None:
    """Return the session if something may be in it: of a host with sessions, a browser with one."""
    session: SessionBase | None = getattr(request, "session", None)
    if session is None or (session.session_key is None and not session.modified):
        return None
    return session
