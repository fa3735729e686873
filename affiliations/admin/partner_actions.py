"""The pages of a partner: links, test link, secret, removal of clicks, stop for fraud."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django import forms
from django.contrib import messages
from django.contrib.admin.utils import label_for_field
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponseRedirect, JsonResponse
from django.urls import NoReverseMatch, get_script_prefix, path, reverse
from django.utils.formats import date_format, number_format
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from affiliations import privacy
from affiliations.admin.base import may_view
from affiliations.admin.codes import code_facts
from affiliations.admin.pages import ObjectViewsMixin, ReasonForm, object_view
from affiliations.admin.report_form import PeriodForm
from affiliations.admin.subscription_warnings import INACTIVE
from affiliations.conf import settings
from affiliations.conversions.decisions import stop_for_fraud
from affiliations.dates import Period, today
from affiliations.exceptions import Reason
from affiliations.link_forms import FullLinkForm, LinkForm
from affiliations.models import Callback, Conversion, Partner, Visitor
from affiliations.models.accounts import known_user
from affiliations.tracking import visitors

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

_MAX_TESTS = 10
#: The number of clicks after which a request removes no more, since a server limits its time.
_REMOVED_AT_ONCE = 20_000


class ReactivateForm(ReasonForm):
    """Asks for the reason; ``stopped_on`` identifies the stop that the page has shown."""

    stopped_on = forms.CharField(widget=forms.HiddenInput)


class PartnerPages(ObjectViewsMixin):
    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.link_view)
        url = path("<path:object_id>/link/", view, name="affiliations_partner_link")
        return [url, *super().get_urls()]

    def link_panel(self, request: HttpRequest, row: Partner) -> dict[str, Any]:
        form = FullLinkForm(request, request.GET)
        return {
            "inactive": "" if row.active or row.is_stopped else INACTIVE,
            "link": form.link(row),
            "link_form": form,
            "link_url": self.row_url(row, "link"),
            "facts": [
                (label_for_field(name, Partner), getattr(row, name))
                for name in ("uid", "group", "email", "notes")
                if getattr(row, name)
            ]
            + code_facts(request, row),
            "site_page": get_script_prefix(),
            "lists": [
                (
                    f"{self.list_url(model)}?partner={row.uid}",
                    model._meta.verbose_name_plural,
                )
                for model in (Visitor, Conversion, Callback)
                if may_view(request, model) and self.admin_site.is_registered(model)
            ],
        }

    def offers(self, name: str, row: Any) -> bool:
        if name == "reactivate":
            return bool(row.is_stopped)
        return super().offers(name, row) and (name != "page_link" or _has_partner_pages())

    def has_stop_permission(self, request: HttpRequest, obj: Partner | None = None) -> bool:
        may_reject = request.user.has_perm("affiliations.change_conversion")
        return may_reject and self.has_change_permission(request, obj)

    def link_view(self, request: HttpRequest, object_id: str) -> JsonResponse:
        """Return the link of an unsent form as JSON, for ``admin.js``."""
        partner = self.get_object(request, object_id)
        if not self.has_view_permission(request, partner):
            raise PermissionDenied
        if partner is None:
            raise Http404
        form = FullLinkForm(request, request.GET)
        mistakes = [message for messages in form.errors.values() for message in messages]
        return JsonResponse({"link": "" if mistakes else form.link(partner), "mistakes": mistakes})

    @object_view(_("Try this deal"), stays=True)
    def test_link(self, request: HttpRequest, partner: Partner) -> HttpResponse:
        """Create a test link, and show the latest test links that were followed."""
        form = LinkForm(request, request.POST if request.method == "POST" else None)
        for field in form.fields.values():
            field.widget.attrs["class"] = "vTextField"
        form.fields["click_id"].help_text = _(
            "Any value, such as test-1. Some callback URLs need one."
        )
        link = ""
        if form.is_valid():
            page, click_id = form.cleaned_data["page"], form.cleaned_data["click_id"]
            link = partner.test_link(page, click_id=click_id)
            self.log_change(request, partner, gettext("Created a test link."))
        followed = partner.followed_test_links.select_related("visitor__partner")
        may_view_visitors = may_view(request, Visitor)
        context = {
            "form": form,
            "submit": gettext("Create link"),
            "link": link,
            "needs_consent": settings.consent is not None,
            "rival": visitors.real_referral(request),
            "followed": [
                (
                    one,
                    Reason.cure_of(one.reason),
                    self.link_url(one.visitor) if one.visitor and may_view_visitors else "",
                )
                for one in followed.order_by("-followed_on", "-pk")[:_MAX_TESTS]
            ],
            "triggers": partner.subscriptions.filter(active=True).order_by("pk"),
        }
        return self.row_response(request, partner, "test_link", context)

    @object_view(_("Signing secret"), stays=True)
    def secret(self, request: HttpRequest, partner: Partner) -> HttpResponse:
        secret = ""
        if "replace" in request.POST:
            secret = partner.replace_signing_secret()
            self.log_change(request, partner, gettext("Replaced the signing secret."))
            text = gettext(
                "Send the new secret to the partner now. For 24 hours callbacks are signed with "
                "both secrets."
            )
            self.message_user(request, text)
        elif "end" in request.POST:
            partner.end_previous_secret()
            text = gettext("Stopped using the old signing secret.")
            return self.done(request, partner, text, "secret")
        elif "show" in request.POST:
            partner.ensure_signing_secret()
            secret = partner.signing_secret
            self.log_change(request, partner, gettext("Viewed the signing secret."))
        return self.row_response(request, partner, "secret", {"secret": secret})

    @object_view(_("Stop for fraud"), permission="stop")
    def stop_for_fraud(self, request: HttpRequest, partner: Partner) -> HttpResponse:
        form = ReasonForm(
            request.POST if request.method == "POST" else None,
            hint=_("Shown to the partner only if you create a new link to the partner page."),
        )
        if form.is_valid():
            reason = form.cleaned_data["reason"]
            count = stop_for_fraud(partner, reason=reason, by=known_user(request.user))
            text = ngettext(
                "Stopped for fraud, %(count)s conversion rejected: %(reason)s",
                "Stopped for fraud, %(count)s conversions rejected: %(reason)s",
                count,
            )
            return self.done(request, partner, text % {"count": count, "reason": reason})
        context = {
            "form": form,
            "pending": partner.conversions.pending().count(),
            "waiting": partner.callbacks.queued().count(),
        }
        return self.row_response(request, partner, "stop_for_fraud", context)

    def has_remove_clicks_permission(
        self, request: HttpRequest, obj: Partner | None = None
    ) -> bool:
        may_delete = request.user.has_perm("affiliations.delete_visitor")
        return may_delete and self.has_change_permission(request, obj)

    @object_view(_("Remove clicks"), permission="remove_clicks", is_atomic=False, stays=True)
    def remove_clicks(self, request: HttpRequest, partner: Partner) -> HttpResponse:
        """Ask for a period, show how many clicks would be removed, and remove them."""
        sent = request.POST if request.method == "POST" else request.GET
        is_sent = bool({"since", "until"} & sent.keys()) or request.method == "POST"
        form = PeriodForm(sent if is_sent else None, initial={"since": today(), "until": today()})
        context: dict[str, Any] = {"form": form}
        if form.is_valid():
            period = form.chosen_period
            if request.method == "POST":
                return self._remove_clicks(request, partner, period)
            clicks = partner.visitors.clicks().filter(**period.within("referred_on")).count()
            count = privacy.unconverted(partner, period).count()
            context |= {
                "count": count,
                "facts": [
                    (gettext("Partner"), f"{partner} ({partner.uid})"),
                    (gettext("Period"), _days(period)),
                    (gettext("Clicks"), number_format(clicks)),
                    (gettext("Clicks that are removed"), number_format(count)),
                    (gettext("Clicks that stay"), number_format(clicks - count)),
                ],
            }
        return self.row_response(request, partner, "remove_clicks", context)

    def _remove_clicks(
        self, request: HttpRequest, partner: Partner, period: Period
    ) -> HttpResponse:
        count = 0
        for removed in privacy.remove(partner, period):
            count += removed
            if count >= _REMOVED_AT_ONCE:
                break
        text = ngettext(
            "Removed %(count)s click: %(period)s.", "Removed %(count)s clicks: %(period)s.", count
        ) % {"count": number_format(count), "period": _days(period)}
        if not privacy.unconverted(partner, period).exists():
            return self.done(request, partner, text)
        self.log_change(request, partner, text)
        more = gettext("There are more. Remove them too.")
        self.message_user(request, f"{text} {more}", messages.WARNING)
        days = urlencode({"since": period.first, "until": period.last})
        return HttpResponseRedirect(f"{self.row_url(partner, 'remove_clicks')}?{days}")

    @object_view(_("Reactivate"), permission="stop")
    def reactivate(self, request: HttpRequest, partner: Partner) -> HttpResponse:
        shown = "" if partner.stopped_on is None else partner.stopped_on.isoformat()
        form = ReactivateForm(
            request.POST if request.method == "POST" else None,
            hint=_("Kept in the history. The partner does not see it."),
            initial={"stopped_on": shown},
        )
        if form.is_valid():
            stop = partner.stopped_display
            if form.cleaned_data["stopped_on"] == shown and partner.reactivate():
                text = gettext("Reactivated: %(reason)s (%(stop)s)")
                reason = form.cleaned_data["reason"]
                return self.done(request, partner, text % {"reason": reason, "stop": stop})
            text = gettext(
                "The partner was not reactivated, because another user has stopped or reactivated "
                "the partner in the meantime."
            )
            self.message_user(request, text, messages.WARNING)
            return HttpResponseRedirect(self.row_url(partner))
        return self.row_response(request, partner, "reactivate", {"form": form})

    @object_view(_("Partner page"), stays=True)
    def page_link(self, request: HttpRequest, partner: Partner) -> HttpResponse:
        """Show the private link to the partner page, or create, replace or revoke it."""
        if not _has_partner_pages():
            raise Http404
        if "revoke" in request.POST:
            partner.revoke_page_link()
            return self.done(request, partner, gettext("Revoked the link to the partner page."))
        is_shown = True
        # Another user may have just created a link, which "create" must not replace.
        if "replace" in request.POST or ("create" in request.POST and not partner.page_key):
            self.log_change(request, partner, self._replace(request, partner))
        elif {"show", "create"} & request.POST.keys():
            self.log_change(request, partner, gettext("Viewed the link to the partner page."))
        else:
            is_shown = False
        link = partner.page_link() if is_shown else None
        context = {
            "is_lost": is_shown and link is None and partner.page_key,
            "link": link and request.build_absolute_uri(link),
        }
        return self.row_response(request, partner, "page_link", context)

    def _replace(self, request: HttpRequest, partner: Partner) -> str:
        """Replace the private link, or create the first one; return the entry of the log."""
        is_first = not partner.page_key
        partner.replace_page_link()
        if is_first:
            return gettext("Created a link to the partner page.")
        text = gettext("Send the new link to the partner now. The old link no longer works.")
        self.message_user(request, text)
        return gettext("Replaced the link to the partner page.")


def _days(period: Period) -> str:
    first, last = (date_format(day, "SHORT_DATE_FORMAT") for day in (period.first, period.last))
    return first if first == last else f"{first} – {last}"


def _has_partner_pages() -> bool:
    try:
        reverse("affiliations:page", args=["-", "-"])
    except NoReverseMatch:
        return False
    return True
