"""
The request of the running code, as django-tls keeps it.

0.12 asked for ``tls.TLSRequestMiddleware``, which no Django since 1.10 can list in ``MIDDLEWARE``.
So the binding is ours; the host goes on importing ``tls.request``. This is the only module that
knows django-tls and Werkzeug.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import tls
from werkzeug.local import LocalProxy

if TYPE_CHECKING:
    from types import TracebackType

    from django.http import HttpRequest

# The public hooks of django-tls make a middleware object of each request and can only release, not
# restore. The local that they set is a private name, but in the only release there will ever be.
_local = tls._local


class binding:  # noqa: N801 -- used as a function, like contextlib's
    """
    Bind a request to ``tls.request`` for the length of a ``with`` block.

    Whatever happens inside, the outer binding is back afterwards: none, or the outer request where
    one request is served inside another. A class, because a generator would cost each request of
    the site three times as much.
    """

    __slots__ = ("outer", "request")

    def __init__(self, request: HttpRequest) -> None:
        self.request = request

    def __enter__(self) -> None:
        self.outer = current_request()
        _local.request = self.request

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.outer is None:
            _local.__release_local__()
        else:
            _local.request = self.outer


def current_request() -> HttpRequest | None:
    """Return the request that is bound here, or ``None`` outside of one."""
    # Walked through: asked for an attribute that it has not, the local raises, which costs each
    # request of the site and each save as much as all the rest of the binding.
    for _, request in _local:
        return cast("HttpRequest", request)
    return None


def real_request(request: HttpRequest | None) -> HttpRequest | None:
    """
    Return the request behind ``tls.request``, ``None`` where that proxy is unbound.

    A 0.12 trigger hands the proxy on as it is. Unbound, it is not ``None`` and raises at the first
    look (only ``type`` asks it nothing), so it is taken off at the door.
    """
    kind: type = type(request)
    if kind is LocalProxy:
        return current_request()
    return None if request is None else unwrapped(request)


def unwrapped(request: HttpRequest) -> HttpRequest:
    """
    Return Django's own request, where a framework hands on one that it has wrapped around it.

    Django REST framework does. What is noted on the wrapper would be lost on the way out.
    """
    return cast("HttpRequest", getattr(request, "_request", request))
