"""
The signed cookie that keeps a referral over logout and the end of the session.

There is one only where ``AFFILIATE_COOKIE_NAME`` names it. It holds the visitor's id, signed with
``SECRET_KEY``; what was tampered with, or signed with a key that is gone, counts as absent. Whether
the referral is open is asked of the row, never of the cookie.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, cast

from django.conf import settings as django_settings
from django.core.signing import BadSignature, Signer
from django.utils import timezone
from django.utils.cache import patch_vary_headers

from affiliations.conf import settings

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from affiliations.models import Visitor

#: Browsers keep no cookie longer (RFC 6265bis, section 5.5).
_LONGEST = timedelta(days=400)

# What this module keeps on a request, for its way out.
_READ = "_affiliations_cookie_read"
_NEXT = "_affiliations_cookie_next"


def remembered(request: HttpRequest) -> int | None:
    """Return the id of the visitor that the cookie remembers; the answer varies by it then."""
    if is_absent(request):
        return None
    if hasattr(request, _NEXT):
        return cast("Visitor", getattr(request, _NEXT)).pk
    try:
        return int(_signer().unsign(request.COOKIES[cast(str, settings.cookie_name)]))
    except BadSignature:
        return None


def is_absent(request: HttpRequest) -> bool:
    """Tell whether there is no such cookie; without the setting no cookie is looked at."""
    if (name := settings.cookie_name) is None:
        return True
    setattr(request, _READ, True)
    if hasattr(request, _NEXT):
        return getattr(request, _NEXT) is None
    return name not in request.COOKIES


def remember(request: HttpRequest, visitor: Visitor) -> None:
    """Let the cookie remember ``visitor`` from the answer on."""
    if settings.cookie_name is not None:
        setattr(request, _NEXT, visitor)


def state(request: HttpRequest) -> list[Visitor | None]:
    """Return, for ``restore``, what the answer is to do about the cookie: nothing or one thing."""
    return [getattr(request, _NEXT)] if hasattr(request, _NEXT) else []


def restore(request: HttpRequest, state: list[Visitor | None]) -> None:
    """Let the answer do what it was to do before."""
    request.__dict__.pop(_NEXT, None)
    for visitor in state:
        setattr(request, _NEXT, visitor)


def forget(request: HttpRequest) -> None:
    """Let the answer take the cookie back, if there is one."""
    if not is_absent(request):
        setattr(request, _NEXT, None)


def leave(request: HttpRequest, response: HttpResponseBase) -> None:
    """Write the cookie, or take it back, on the request's way out."""
    if hasattr(request, _READ):
        patch_vary_headers(response, ("Cookie",))
    if not hasattr(request, _NEXT):
        return
    visitor: Visitor | None = getattr(request, _NEXT)
    name = cast(str, settings.cookie_name)
    path, domain = django_settings.SESSION_COOKIE_PATH, django_settings.SESSION_COOKIE_DOMAIN
    if visitor is None:
        response.delete_cookie(name, path=path, domain=domain, samesite="Lax")
        return
    response.set_cookie(
        name,
        _signer().sign(str(visitor.pk)),
        max_age=_remaining(visitor),
        path=path,
        domain=domain,
        secure=django_settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )


def _signer() -> Signer:
    # Not Django's signed cookies: their salt is another since Django 6.1, and after the update no
    # visitor would be known.
    return Signer(salt="affiliations.visitor")


def _remaining(visitor: Visitor) -> timedelta | None:
    """Return how long the referral still counts; ``None``, for ever, makes a session cookie."""
    window = visitor.partner.attribution_window
    if window is None:
        return None
    return min(window, _LONGEST) - (timezone.now() - visitor.referred_on)
