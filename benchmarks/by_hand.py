"""
What a developer would write instead of this app: two views with the same queries.

They write the same rows with the same safety: no click and no order counts twice, also not in two
requests at once, no failure fails the order, and no link leads to another site. They know one
trigger and no settings.
"""

from __future__ import annotations

import logging
from hashlib import sha256
from urllib.parse import quote, urlsplit

from crawleruseragents import is_crawler
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from django.utils.http import escape_leading_slashes
from django.views.decorators.csrf import csrf_exempt

from affiliations.conf import settings
from affiliations.models import Callback, Conversion, Partner, Subscription, Visitor
from tests.testapp.models import Order
from tests.urls import urlpatterns as pages

logger = logging.getLogger(__name__)

SESSION_KEY = "referred_by"
TRIGGER = "Order placed"
IDS = ("click_id", "sub1", "sub2", "sub3", "sub4", "sub5")


def landing(request: HttpRequest) -> HttpResponse:
    """Register a click, and redirect to the same page without the partner's uid."""
    query = request.GET.copy()
    uid = query.pop("affiliate_id")[-1]
    location = escape_leading_slashes(request.path) + (f"?{query.urlencode()}" if query else "")
    response = HttpResponseRedirect(location)
    add_never_cache_headers(response)
    if not is_click(request):
        return response
    partner = Partner.objects.filter(uid__in=[uid]).first()
    if partner is None or not partner.active:
        return response
    now = timezone.now()
    ids = {name: stored(query.get(name, ""), 255) for name in IDS}
    current = remembered(request)
    if (
        current is not None
        and current.partner_id == partner.pk
        and now - current.referred_on < settings.click_dedupe_window
        and all(getattr(current, name) == value for name, value in ids.items())
    ):
        return response
    referrer = urlsplit(stored(request.headers.get("Referer", ""), 2048))
    visitor = Visitor.objects.create(
        partner=partner,
        user=request.user if request.user.is_authenticated else None,
        referred_on=now,
        entry_point=request.build_absolute_uri(location)[:2048],
        referrer=f"{referrer.scheme}://{referrer.hostname}{referrer.path}"
        if referrer.scheme
        else "",
        is_internal=referrer.hostname == request.get_host(),
        previous=current,
        **ids,
    )
    request.session[SESSION_KEY] = visitor.pk
    request.session[f"{SESSION_KEY}_fingerprint"] = visitor.fingerprint
    return response


@csrf_exempt
def order(request: HttpRequest) -> HttpResponse:
    """Place an order, and credit the partner."""
    placed = Order.objects.create(note=request.POST.get("note", ""))
    try:
        credit(request, placed)
    except Exception:
        logger.exception("Order %s credits nobody.", placed.pk)
    return HttpResponse(str(placed.pk))


def credit(request: HttpRequest, placed: Order) -> None:
    visitor, now = remembered(request), timezone.now()
    if visitor is None or not visitor.partner.active:
        return
    subscriptions = list(
        Subscription.objects.filter(partner=visitor.partner, active=True, trigger=TRIGGER)
    )
    if not subscriptions:
        return
    reference = f"testapp.order:{placed.pk}"
    key = sha256(reference.encode()).hexdigest()
    counted = Conversion.objects.filter(
        Q(dedupe_key=f"r:{key}") | Q(reference_key=key), trigger=TRIGGER
    )
    if counted.exists():
        return
    with transaction.atomic(using=visitor._state.db):
        # Lock the visitor first, or two conversions of one visitor would deadlock on MariaDB.
        is_open = Visitor.objects.filter(pk=visitor.pk, closed_on=None)
        if not is_open.update(successful_on=Coalesce("successful_on", now)):
            return
        conversion = Conversion.objects.create(
            visitor=visitor,
            partner=visitor.partner,
            subscription=subscriptions[0],
            trigger=TRIGGER,
            user=request.user if request.user.is_authenticated else None,
            reference=reference,
            dedupe_key=f"r:{key}",
            reference_key=key,
            payout_type=subscriptions[0].payout_type,
            status=Conversion.Status.APPROVED,
            decided_on=now,
            created_on=now,
            **{name: getattr(visitor, name) for name in IDS[1:]},
        )
        if counted.exclude(pk=conversion.pk).exists():
            raise IntegrityError("Another request has counted the order.")
        callbacks = [
            Callback.objects.create(
                conversion=conversion,
                subscription=subscription,
                partner=visitor.partner,
                event=Callback.Event.CONVERSION,
                url=subscription.callback_url.replace(
                    "{click_id}", quote(visitor.click_id, safe="")
                ),
                created_on=now,
                next_attempt_on=now,
            )
            for subscription in subscriptions
            if subscription.callback_url
        ]
        keys = [callback.pk for callback in callbacks]
        transaction.on_commit(
            lambda: settings.callback_dispatcher(keys), using=visitor._state.db, robust=True
        )


def is_click(request: HttpRequest) -> bool:
    """Tell whether a person has followed the link: no crawler, no image, no prefetch."""
    headers = request.headers
    return (
        request.method == "GET"
        and "prefetch" not in headers.get("Sec-Purpose", "")
        and headers.get("Sec-Fetch-Dest", "document") == "document"
        and not is_crawler(headers.get("User-Agent", ""))
    )


def remembered(request: HttpRequest) -> Visitor | None:
    """Return the visitor of the session, if the visitor can be credited."""
    if (key := request.session.get(SESSION_KEY)) is None:
        return None
    visitor = Visitor.objects.select_related("partner").filter(pk=key).first()
    if visitor is None or visitor.fingerprint != request.session[f"{SESSION_KEY}_fingerprint"]:
        return None
    window = settings.attribution_window
    is_late = window is not None and timezone.now() - visitor.referred_on > window
    return None if is_late or visitor.closed_on else visitor


def stored(text: str, length: int) -> str:
    """Return a text as a database can store it."""
    return "" if "\x00" in text else text[:length]


urlpatterns = [*pages, path("by-hand/", landing), path("by-hand/order/", order)]
