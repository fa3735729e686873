"""The private link of a partner's own page: made, shown, replaced, revoked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.http import Http404
from django.urls import NoReverseMatch, reverse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations.admin.pages import RowPagesMixin, row_page
from affiliations.models import Partner

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse


class PageLinkPage(RowPagesMixin):
    """The button on the page of a partner that leads to the link of their own page."""

    def offers(self, name: str, row: Any) -> bool:
        """Leave the button out where the host's URLs have no such pages."""
        return super().offers(name, row) and (name != "page_link" or _are_included())

    @row_page(_("The partner’s own page"))
    def page_link(self, request: HttpRequest, partner: Partner) -> HttpResponse:
        """Show the link when asked to, make another, or let nobody in any more."""
        if not _are_included():
            raise Http404
        if "revoke" in request.POST:
            partner.revoke_page_link()
            return self.done(request, partner, gettext("Revoked the link of the partner’s page."))
        is_shown = True
        # Somebody else may just have made one.
        if "replace" in request.POST or ("make" in request.POST and not partner.page_key):
            self.log_change(request, partner, self._replace(request, partner))
        elif {"show", "make"} & request.POST.keys():
            self.log_change(request, partner, gettext("Looked at the link of the partner’s page."))
        else:
            is_shown = False
        path = partner.page_link() if is_shown else None
        context = {
            "is_lost": is_shown and path is None and partner.page_key,
            "link": path and request.build_absolute_uri(path),
        }
        return self.row_response(request, partner, "page_link", context)

    def _replace(self, request: HttpRequest, partner: Partner) -> str:
        """Make another link; return what was done."""
        is_first = not partner.page_key
        partner.replace_page_link()
        if is_first:
            return gettext("Made a link of the partner’s page.")
        text = gettext("Hand this link over now: the old one opens nothing any more.")
        self.message_user(request, text)
        return gettext("Replaced the link of the partner’s page.")


def _are_included() -> bool:
    """Tell whether the host has ``affiliations.urls`` among its own."""
    try:
        reverse("affiliations:page", args=["-", "-"])
    except NoReverseMatch:
        return False
    return True
