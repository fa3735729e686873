"""The deal with a partner: the link to hand over, to try it, its secret, and its end."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from django import forms
from django.conf import settings as django_settings
from django.contrib.admin.widgets import AdminTextInputWidget
from django.core.exceptions import PermissionDenied
from django.http import Http404, JsonResponse
from django.http.request import split_domain_port, validate_host
from django.urls import get_script_prefix, path
from django.utils import timezone
from django.utils.encoding import iri_to_uri
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from affiliations.admin.decisions import FraudForm, stop_for_fraud
from affiliations.admin.pages import RowPagesMixin, list_url, may_view, row_page
from affiliations.conf import settings
from affiliations.models import Callback, Conversion, Partner, Visitor

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

_TESTS = 5
#: So long ago somebody may have tried the deal.
_TESTED = timedelta(days=30)


class LinkForm(forms.Form):
    """Where a tracking link leads, and what the partner's network fills in."""

    page = forms.CharField(
        label=_("landing page"),
        max_length=2048,
        required=False,
        widget=AdminTextInputWidget,
        help_text=_("Any page of this site: its path, or its whole address."),
    )
    click_id = forms.CharField(
        label=_("click id"),
        max_length=255,
        required=False,
        widget=AdminTextInputWidget,
        help_text=_("The place for it as the partner’s network writes it, such as {clickid}."),
    )

    def __init__(self, request: HttpRequest, data: Any = None) -> None:
        self.request = request
        super().__init__(data)

    def clean_page(self) -> str:
        """Return the whole address of a page of this site."""
        page = self.cleaned_data["page"].strip() or get_script_prefix()
        try:
            parts = urlsplit(page)
            host, scheme = parts.netloc, parts.scheme
        except ValueError as error:
            raise forms.ValidationError(_("This is not an address.")) from error
        if not host and not scheme:
            relative = page if page.startswith("/") else f"/{page}"
            return self.request.build_absolute_uri(relative)
        if scheme not in ("http", "https") or not self._is_ours(host):
            raise forms.ValidationError(
                _("This is not a page of this site. Write a path, such as /shoes/.")
            )
        return str(iri_to_uri(page))

    def _is_ours(self, host: str) -> bool:
        """
        Tell whether a host is one that this site answers at.

        ``*`` says nothing about which that is: whatever it answers at stands in the request. Who
        puts a name before the host may mean to have it taken for the site.
        """
        if host == self.request.get_host():
            return True
        ours = [pattern for pattern in django_settings.ALLOWED_HOSTS if pattern != "*"]
        return "@" not in host and validate_host(split_domain_port(host)[0], ours)


class TestLinkForm(LinkForm):
    """Where a link for trying the deal leads, and what the partner’s network would fill in."""

    def __init__(self, request: HttpRequest, data: Any = None) -> None:
        super().__init__(request, data)
        self.fields["click_id"].help_text = _("Anything, such as test-1: callbacks may want one.")


class FullLinkForm(LinkForm):
    """A tracking link with every label that a partner can give a click."""

    def __init__(self, request: HttpRequest, data: Any = None) -> None:
        super().__init__(request, data)
        for number, _key in enumerate(settings.sub_id_keys, start=1):
            label = gettext("sub id %(number)s") % {"number": number}
            self.fields[f"sub{number}"] = forms.CharField(
                label=label, max_length=255, required=False, widget=AdminTextInputWidget
            )

    def link(self, partner: Partner) -> str:
        """Return the link; the plain one while there is a mistake."""
        if not self.is_valid():
            return partner.link(self.request.build_absolute_uri(get_script_prefix()))
        labels = self.cleaned_data.copy()
        return partner.link_with_macros(labels.pop("page"), **labels)


class DealPages(RowPagesMixin):
    """The pages of a partner."""

    row_pages = ["try_deal", "secret", "stop_for_fraud"]

    def get_urls(self) -> list[Any]:
        """Put the link that is written while somebody types before the Admin's own addresses."""
        view = self.admin_site.admin_view(self.link_view)
        url = path("<path:object_id>/link/", view, name="affiliations_partner_link")
        return [url, *super().get_urls()]

    def get_panels(self, request: HttpRequest, row: Partner) -> dict[str, Any]:
        """Show the tracking link, for the page and with the places that somebody has asked for."""
        asked = {"page", "click_id"} & request.GET.keys() and request.method == "GET"
        form = FullLinkForm(request, request.GET if asked else {})
        return {
            "link": form.link(row),
            "link_form": form,
            "link_url": self.row_url(row, "link"),
            "site_page": get_script_prefix(),
            "lists": [
                (
                    f"{list_url(model, site=self.admin_site.name)}?partner={row.uid}",
                    model._meta.verbose_name_plural,
                )
                for model in (Visitor, Conversion, Callback)
                if may_view(request, model) and self.admin_site.is_registered(model)
            ],
        }

    def has_stop_permission(self, request: HttpRequest, obj: Partner | None = None) -> bool:
        """Tell whether somebody may end the deal, and reject what is undecided."""
        may_reject = request.user.has_perm("affiliations.change_conversion")
        return may_reject and self.has_change_permission(request, obj)

    def link_view(self, request: HttpRequest, object_id: str) -> JsonResponse:
        """Write a link while somebody types."""
        partner = self.get_object(request, object_id)
        if not self.has_view_permission(request, partner):
            raise PermissionDenied
        if partner is None:
            raise Http404
        form = FullLinkForm(request, request.GET)
        mistakes = [message for messages in form.errors.values() for message in messages]
        return JsonResponse({"link": "" if mistakes else form.link(partner), "mistakes": mistakes})

    @row_page(_("Try this deal"))
    def try_deal(self, request: HttpRequest, partner: Partner) -> HttpResponse:
        """Make a link for going through the whole deal, which is in no number."""
        form = TestLinkForm(request, request.POST if request.method == "POST" else None)
        link = ""
        if form.is_valid():
            page, click_id = form.cleaned_data["page"], form.cleaned_data["click_id"]
            link = partner.test_link(page, click_id=click_id)
            self.log_change(request, partner, gettext("Made a link for trying the deal."))
        tests = Visitor.objects.filter(
            # Not all of the partner's visitors are looked through for them.
            referred_on__gt=timezone.now() - _TESTED,
            partner=partner,
            is_test=True,
        )
        sees = may_view(request, Visitor)
        context = {
            "form": form,
            "link": link,
            "tests": [
                (one, self.link_url(one) if sees else "") for one in tests.order_by("-pk")[:_TESTS]
            ],
            "triggers": partner.subscriptions.filter(active=True).order_by("pk"),
        }
        return self.row_response(request, partner, "try_deal", context)

    @row_page(_("Signing secret"))
    def secret(self, request: HttpRequest, partner: Partner) -> HttpResponse:
        """Show the secret when asked to, or make another."""
        secret = ""
        if "replace" in request.POST:
            secret = partner.replace_signing_secret()
            self.log_change(request, partner, gettext("Replaced the signing secret."))
            text = gettext("Hand this secret over now: with the old one nothing is verified.")
            self.message_user(request, text)
        elif "show" in request.POST:
            secret = partner.signing_secret
            self.log_change(request, partner, gettext("Looked at the signing secret."))
        return self.row_response(request, partner, "secret", {"secret": secret})

    @row_page(_("Stop for fraud"), permission="stop")
    def stop_for_fraud(self, request: HttpRequest, partner: Partner) -> HttpResponse:
        """End the deal with somebody who cheats."""
        form = FraudForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            reason = form.cleaned_data["reason"]
            count = stop_for_fraud(partner, reason=reason, by=request.user)  # type: ignore[arg-type] # signed in
            text = ngettext(
                "Stopped for fraud, %(count)s conversion rejected: %(reason)s",
                "Stopped for fraud, %(count)s conversions rejected: %(reason)s",
                count,
            )
            return self.done(request, partner, text % {"count": count, "reason": reason})
        waiting = (Callback.Status.QUEUED, Callback.Status.HELD)
        theirs = Conversion.objects.filter(partner=partner)
        context = {
            "form": form,
            "undecided": theirs.filter(status=Conversion.Status.PENDING).count(),
            "waiting": partner.callbacks.filter(status__in=waiting).count(),
        }
        return self.row_response(request, partner, "stop_for_fraud", context)
