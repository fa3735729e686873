"""
The signed cookie that remembers a visitor after a logout and after the end of the session.

It is used only if ``AFFILIATE_COOKIE_NAME`` is set. It contains the visitor's id and fingerprint,
signed with ``SECRET_KEY``. A cookie that neither this key nor one of ``SECRET_KEY_FALLBACKS`` has
signed is deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, cast

from django.conf import settings as django_settings
from django.core.signing import BadSignature, Signer
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone

from affiliations.conf import settings
from affiliations.models import Visitor
from affiliations.tracking.sessions import Remembered
from affiliations.tracking.state import RequestState

#: Browsers keep no cookie longer (RFC 6265bis, section 5.5).
_MAX_AGE = timedelta(days=400)


def remembered(request: HttpRequest) -> Remembered | None:
    """Return the visitor's id and fingerprint from the cookie, if it is valid."""
    if is_absent(request):
        return None
    if (state := RequestState.of(request)).cookie is not ...:
        visitor = cast("Visitor", state.cookie)
        return visitor.pk, visitor.fingerprint
    value = _sent(request)[cast(str, settings.cookie_name)]
    try:
        visitor_id, fingerprint = _signer().unsign(value).split(":")
        return int(visitor_id), fingerprint
    except (BadSignature, ValueError):
        return None


def is_absent(request: HttpRequest) -> bool:
    if (name := settings.cookie_name) is None:
        return True
    state = RequestState.of(request)
    return name not in _sent(request) if state.cookie is ... else state.cookie is None


def remember(request: HttpRequest, visitor: Visitor) -> None:
    if settings.cookie_name is not None:
        RequestState.of(request).cookie = visitor


def forget(request: HttpRequest) -> None:
    if not is_absent(request):
        RequestState.of(request).cookie = None


def write(state: RequestState, response: HttpResponseBase) -> None:
    """Set or delete the cookie of a response, by the state of the request."""
    if (visitor := state.cookie) is ...:
        return
    name = cast(str, settings.cookie_name)
    attributes: dict[str, Any] = {
        "path": django_settings.SESSION_COOKIE_PATH,
        "domain": django_settings.SESSION_COOKIE_DOMAIN,
        "samesite": "Lax",
    }
    if visitor is None:
        response.delete_cookie(name, **attributes)
        return
    # Without an attribution window it is a session cookie.
    if (max_age := visitor.partner.attribution_window) is not None:
        max_age = min(max_age, _MAX_AGE) - (timezone.now() - visitor.referred_on)
    response.set_cookie(
        name,
        _signer().sign(f"{visitor.pk}:{visitor.fingerprint}"),
        max_age=max_age,
        secure=django_settings.SESSION_COOKIE_SECURE,
        httponly=True,
        **attributes,
    )


def _sent(request: HttpRequest) -> Mapping[str, str]:
    """Return the cookies of a request; none if a test has set ``COOKIES`` to something else."""
    sent = getattr(request, "COOKIES", None)
    return sent if isinstance(sent, Mapping) else {}


def _signer() -> Signer:
    # Not Django's signed cookies: Django 6.1 has changed their salt, so an update of Django would
    # invalidate every cookie.
    return Signer(salt="affiliations.visitor")
