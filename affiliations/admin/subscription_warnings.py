"""Warnings about values of a subscription that are valid, but probably a mistake."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from copy import copy
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from django.contrib import messages
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from affiliations import url_mistakes
from affiliations.admin.base import may_view
from affiliations.conf import Settings
from affiliations.conversions import earning
from affiliations.events import entries, options_of
from affiliations.models import Partner, Subscription
from affiliations.triggers import own_receiver

if TYPE_CHECKING:
    from django.forms import ModelForm
    from django.http import HttpRequest


INACTIVE = _("This partner is inactive: clicks are not tracked and nothing new is credited.")


def warn_of_subscriptions(request: HttpRequest, partner: Partner) -> None:
    """Show the warnings about a partner's subscriptions as messages."""
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


def report_earning(request: HttpRequest, forms: Iterable[ModelForm]) -> None:
    """Show messages that say how many customers changed earning periods affect."""
    for text in of_earning(forms):
        messages.info(request, text)


def of_earning(forms: Iterable[ModelForm]) -> list[str]:
    """Return how many customers gain and lose by the changed earning periods in valid forms."""
    changes = [change for form in forms if (change := _earning_change(form)) is not None]
    if not changes:
        return []
    gained, lost = (sum(counts) for counts in zip(*changes, strict=True))
    if not gained and not lost:
        return [gettext("The new earning period changes nothing for existing customers.")]
    gain = ngettext(
        "Later orders of %(count)s customer are credited from now on.",
        "Later orders of %(count)s customers are credited from now on.",
        gained,
    )
    loss = ngettext(
        "Later orders of %(count)s customer are no longer credited.",
        "Later orders of %(count)s customers are no longer credited.",
        lost,
    )
    texts = ((gain, gained), (loss, lost))
    return [text % {"count": number_format(count)} for text, count in texts if count]


def _earning_change(form: ModelForm) -> tuple[int, int] | None:
    """Return how many customers gain and lose by a form; ``None`` if it changes no period."""
    after = form.instance
    if after.pk is None or "earns_for" not in form.initial:
        return None  # The row was removed or added, or is not a subscription.
    before = copy(after)
    before.earns_for, before.earns_months = form.initial["earns_for"], form.initial["earns_months"]
    # Not "changed_data", which has the two fields also if the form was sent without them.
    if (before.earns_for, before.earns_months) == (after.earns_for, after.earns_months):
        return None
    return earning.count_changes(before, after, timezone.now()) if after.active else (0, 0)


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
    if subscription.has_earning_period and _states_nobody(subscription.trigger):
        found["earns_for"] = gettext(
            "The settings name neither a user nor a visitor for this trigger, so later orders are "
            "not recognised. Ask your developers to add “user” in AFFILIATE_TRIGGERS."
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
    return _has_no_option(trigger, "amount")


def _states_nobody(trigger: str) -> bool:
    return _has_no_option(trigger, "user") and _has_no_option(trigger, "visitor")


def _has_no_option(trigger: str, name: str) -> bool:
    """Tell whether the settings lack an option; a receiver of the host may do without it."""
    receivers = [entry[2] for entry in entries(trigger)]
    is_ours = receivers and all(own_receiver(receiver) for receiver in receivers)
    return bool(is_ours) and name not in options_of(trigger)


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
