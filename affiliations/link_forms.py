"""Forms that ask for the parts of a tracking link: for staff, and for the partner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from django import forms
from django.conf import settings as django_settings
from django.http.request import split_domain_port, validate_host
from django.urls import get_script_prefix
from django.utils.encoding import iri_to_uri
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations.conf import settings
from affiliations.models.visitor import MAX_CLICK_ID

if TYPE_CHECKING:
    from django.http import HttpRequest

    from affiliations.models import Partner


class LinkForm(forms.Form):
    """Asks for the landing page of a tracking link, and for the network's macro."""

    page = forms.CharField(
        label=_("landing page"),
        max_length=2048,
        required=False,
        help_text=_("Any page of this site, as a path or a full URL."),
    )
    click_id = forms.CharField(
        label=_("click id"),
        max_length=MAX_CLICK_ID,
        required=False,
        help_text=_("The network’s macro for its click id, such as {clickid}."),
    )

    def __init__(self, request: HttpRequest, data: Any, *, prefix: str | None = None) -> None:
        self.request = request
        super().__init__(data, prefix=prefix)

    @property
    def is_sent(self) -> bool:
        """Whether the data are those of this form, and not of another part of the page."""
        return any(self.add_prefix(name) in self.data for name in self.fields)

    def clean_page(self) -> str:
        """Return the absolute URL of a page of this site."""
        page = self.cleaned_data["page"].strip() or get_script_prefix()
        try:
            parts = urlsplit(page)
            host, scheme = parts.netloc, parts.scheme
        except ValueError as error:
            raise forms.ValidationError(
                _("Enter a path, such as /shoes/, or a full URL.")
            ) from error
        if not host and not scheme:
            relative = page if page.startswith("/") else f"/{page}"
            return self.request.build_absolute_uri(relative)
        if scheme not in ("http", "https") or not self._is_own(host):
            raise forms.ValidationError(
                _("This page is not on this site. Enter a path, such as /shoes/.")
            )
        return str(iri_to_uri(page))

    def _is_own(self, host: str) -> bool:
        """
        Tell whether a host belongs to this site.

        ``*`` in ``ALLOWED_HOSTS`` is ignored, but the host of the request always belongs to it. A
        user name before the host is refused, since it may imitate a host of this site.
        """
        if host == self.request.get_host():
            return True
        patterns = [pattern for pattern in django_settings.ALLOWED_HOSTS if pattern != "*"]
        return "@" not in host and validate_host(split_domain_port(host)[0], patterns)


class FullLinkForm(LinkForm):
    """Asks for the sub ids too."""

    def __init__(self, request: HttpRequest, data: Any, *, prefix: str | None = None) -> None:
        super().__init__(request, data, prefix=prefix)
        for number, _key in enumerate(settings.sub_id_keys, start=1):
            label = gettext("sub id %(number)s") % {"number": number}
            self.fields[f"sub{number}"] = forms.CharField(
                label=label, max_length=255, required=False
            )

    def link(self, partner: Partner) -> str:
        """Return the link, or the link to the home page while the form is invalid."""
        if not self.is_valid():
            return partner.link(self.request.build_absolute_uri(get_script_prefix()))
        data = self.cleaned_data.copy()
        return partner.link_with_macros(data.pop("page"), **data)
