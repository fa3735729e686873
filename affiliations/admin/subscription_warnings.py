"""Warnings about what is valid in a subscription, but hardly intended."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from django.contrib import messages
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations import url_mistakes
from affiliations.admin.base import may_view
from affiliations.conf import Settings
from affiliations.events import entries, options_of
from affiliations.models import Partner, Subscription
from affiliations.triggers import own_receiver

if TYPE_CHECKING:
    from django.http import HttpRequest


INACTIVE = _("This partner is inactive: clicks are not tracked and nothing new is credited.")


def warn_of_subscriptions(request: HttpRequest, partner: Partner) -> None:
    """Show a message about what is valid in a partner's subscriptions, but hardly intended."""
    if not partner.active and not partner.is_stopped:
        messages.warning(request, INACTIVE)
    if not may_view(request, Subscription):
        return
    for subscription in partner.subscriptions.filter(active=True).order_by("pk"):
        _warn_of_url(request, subscription)
        for text in of_subscription(subscription).values():
            messages.warning(request, f"{subscription.trigger}: {text}")
    if closing := partner.subscriptions.closing_too_early():
        names = ", ".join(f"“{trigger}”" for trigger in closing)
        warning = gettext(
            "%(partner)s: tracking ends after %(triggers)s, so later events won’t count. To credit "
            "later events too, clear “Stop tracking the visitor after the first conversion” there."
        )
        messages.warning(request, warning % {"partner": partner, "triggers": names})


def of_subscription(subscription: Subscription) -> dict[str, str]:
    """Return the warnings about an active subscription, by the field to change."""
    if not subscription.active:
        return {}
    found = {}
    if host := _blocked_host(subscription.callback_url):
        text = gettext(
            "Callbacks to %(host)s are not sent, because this host is inside this site’s "
            "network. For development, add this to the settings: %(line)s"
        )
        line = Settings.callback_allowed_networks.line
        found["callback_url"] = text % {"host": host, "line": line}
    if subscription.payout_type == Subscription.PayoutType.PERCENT and _has_no_amount(
        subscription.trigger
    ):
        found["payout_value"] = gettext(
            "The payout is a percentage, but the settings name no amount for this trigger, so each "
            "conversion needs review. Ask your developers to add “amount” in AFFILIATE_TRIGGERS."
        )
    is_manual = subscription.approval == Subscription.Approval.MANUAL
    if is_manual and subscription.callback_url and not subscription.call_on_approval:
        found["call_on_approval"] = gettext(
            "Conversions are approved manually or by your shop, but no callback is sent then, so "
            "the partner is not told of the approval."
        )
    return found


def _blocked_host(url: str) -> str:
    """Return the host of a URL if it is certainly not called."""
    # Not at the top, since the Admin must not load requests.
    from affiliations.callbacks import addresses

    host = None
    with suppress(ValueError):  # 0.12 stored any URL.
        host = urlsplit(url).hostname
    return host if host and addresses.is_blocked(host) else ""


def _has_no_amount(trigger: str) -> bool:
    """Tell whether the settings name no amount; a receiver of the host's own may know one."""
    receivers = [entry[2] for entry in entries(trigger)]
    is_ours = receivers and all(own_receiver(receiver) for receiver in receivers)
    return bool(is_ours) and "amount" not in options_of(trigger)


def _warn_of_url(request: HttpRequest, subscription: Subscription) -> None:
    url, trigger = subscription.callback_url, subscription.trigger
    for doubt in url_mistakes.doubts(url):
        messages.warning(request, f"{trigger}: {doubt.message}")
    found = url_mistakes.mistakes(url, subscription.url_rules) if url else []
    if found:
        warning = gettext(
            "%(trigger)s: callbacks are still sent to the stored URL, but a new URL like it would "
            "be refused. %(mistakes)s"
        )
        text = " ".join(mistake.message for mistake in found)
        messages.warning(request, warning % {"trigger": trigger, "mistakes": text})
