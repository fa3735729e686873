"""Recognize the pages on which staff act for other users."""

from __future__ import annotations

from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse

from affiliations.conf import settings


def is_on_staff_page(request: HttpRequest | None) -> bool:
    """Tell whether a request is in one of ``AFFILIATE_STAFF_NAMESPACES``."""
    if request is None:
        return False
    match = getattr(request, "resolver_match", None)
    namespaces = set() if match is None else {*match.app_names, *match.namespaces}
    return any(name in namespaces or _is_below(request, name) for name in settings.staff_namespaces)


def _is_below(request: HttpRequest, url_name: str) -> bool:
    try:
        path = reverse(url_name, urlconf=getattr(request, "urlconf", None))
    except NoReverseMatch:  # It is a namespace, or not installed.
        return False
    own_path = getattr(request, "path", "")
    return f"{own_path}/".startswith(f"{path.rstrip('/')}/")
