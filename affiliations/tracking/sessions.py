"""
The session, with the visitor's id and fingerprint, and the clicks that wait for consent.

These functions start or read a session only if they must. ``forget()``, for example, starts none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from django.contrib.sessions.backends.base import SessionBase
from django.http import HttpRequest

from affiliations.conf import settings
from affiliations.models import Visitor

#: A click that waits for consent: the partner's uid, and the fields of the visitor's row. Not the
#: partner's primary key, which may belong to another partner in another database.
DeferredClick = tuple[str, dict[str, Any]]

#: What a browser remembers: the id of a visitor, and the fingerprint of the row.
Remembered = tuple[int, str]

#: The host's tests may set a dict, which is read and written like a session.
Session = SessionBase | MutableMapping[str, Any]
_SESSIONS = (SessionBase, MutableMapping)

#: The maximum number of deferred clicks, and of their characters as JSON. A session may be stored
#: in a cookie of 4 KB, in which the host needs space as well.
_MAX_CLICKS, _MAX_CHARACTERS = 5, 3_000


def remembered(request: HttpRequest) -> Remembered | None:
    """Return the visitor's id and fingerprint, if they are valid. This may read the session."""
    if (session := _session(request)) is None:
        return None
    visitor_id, fingerprint = session.get(settings.session_key), session.get(_fingerprint_key())
    # Not isinstance(), since True is an integer as well.
    if type(visitor_id) is not int or not isinstance(fingerprint, str):
        return None
    return visitor_id, fingerprint


def is_absent(request: HttpRequest) -> bool:
    """Tell, without reading the session, whether it certainly has no visitor."""
    session = _session(request)
    if session is None:
        return True
    # Nothing has to be read from a dict.
    is_read = getattr(session, "accessed", True)
    return is_read and session.get(settings.session_key) is None


def remember(request: HttpRequest, visitor: Visitor) -> None:
    if (session := _writable_session(request)) is not None:
        session[settings.session_key] = visitor.pk
        session[_fingerprint_key()] = visitor.fingerprint


def forget(request: HttpRequest) -> None:
    if (session := _session(request)) is not None:
        session.pop(settings.session_key, None)
        session.pop(_fingerprint_key(), None)


def snapshot(request: HttpRequest) -> dict[str, Any]:
    """Return the values of this app's keys, for ``restore()``."""
    session = _session(request)
    return {} if session is None else {key: session[key] for key in _keys() if key in session}


def restore(request: HttpRequest, snapshot: Mapping[str, Any]) -> None:
    if (session := _session(request)) is not None:
        for key in _keys():
            session.pop(key, None)
        session.update(snapshot)


def defer(request: HttpRequest, click: DeferredClick) -> Sequence[DeferredClick]:
    """
    Keep a click until the visitor decides; return the clicks for which there is no space.

    Tests are dropped first, then the oldest clicks, or the latest ones if the first click wins.
    """
    session = _writable_session(request)
    if session is None or _size([click]) > _MAX_CHARACTERS:
        return [click]
    deferred, dropped = [*session.get(_deferred_key(), []), click], []
    while len(deferred) > _MAX_CLICKS or _size(deferred) > _MAX_CHARACTERS:
        tests = [number for number, (_, facts) in enumerate(deferred) if facts["test_nonce"]]
        dropped.append(deferred.pop([*tests, -1 if settings.first_click_wins else 0][0]))
    session[_deferred_key()] = deferred
    return dropped


def take_deferred(request: HttpRequest) -> Sequence[DeferredClick]:
    """Remove the deferred clicks from the session and return them, oldest first."""
    session = _session(request)
    deferred: Sequence[DeferredClick] = [] if session is None else session.pop(_deferred_key(), [])
    return deferred


def _size(deferred: Sequence[DeferredClick]) -> int:
    return len(json.dumps(deferred))


def _deferred_key() -> str:
    return f"{settings.session_key}_waiting"


def _fingerprint_key() -> str:
    # A key of its own: the host may read the id, which is an integer as in 0.12.
    return f"{settings.session_key}_fingerprint"


def _keys() -> tuple[str, str, str]:
    return settings.session_key, _fingerprint_key(), _deferred_key()


def _session(request: HttpRequest) -> Session | None:
    """Return the session; ``None`` if the browser has sent none and the host has written none."""
    session = _writable_session(request)
    if isinstance(session, SessionBase) and session.session_key is None and not session.modified:
        return None
    return session


def _writable_session(request: HttpRequest) -> Session | None:
    """Return the session, even one not started yet; ``None`` if the request has none."""
    session = getattr(request, "session", None)
    # A test may have set a dummy, such as a text or a mock.
    return session if isinstance(session, _SESSIONS) else None
