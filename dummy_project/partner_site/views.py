"""The pages of the magazine, the redirect to the shop, and the callback view."""

from __future__ import annotations

from dataclasses import asdict, fields
from urllib.parse import urlencode, urljoin

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from partner_site.ledger import Callback, Click, Ledger

ledger = Ledger()


@require_GET
def front_page(request: HttpRequest) -> HttpResponse:
    """Show the magazine with its links to the shop."""
    return render(request, "partner_site/front_page.html")


@never_cache
@require_GET
def out(request: HttpRequest) -> HttpResponse:
    """Give the click an id and redirect the reader to the shop, with our tracking link."""
    # The path may have been changed in the address bar, so make sure that it is on the shop's site.
    path = "/" + request.GET.get("path", "").lstrip("/\\")
    click = Click(path, request.GET.get("placement", ""))
    ledger.clicks.append(click)
    affiliate_part = urlencode(
        {
            "affiliate_id": settings.AFFILIATE_UID,
            "click_id": click.click_id,
            "sub1": click.placement,
        }
    )
    return HttpResponseRedirect(f"{urljoin(settings.SHOP_URL, path)}?{affiliate_part}")


@require_GET
def callback(request: HttpRequest) -> HttpResponse:
    """Receive a callback from the shop."""
    if not 200 <= settings.CALLBACK_STATUS < 300:
        return _plain("Error.")
    values = {each.name: request.GET.get(each.name, "") for each in fields(Callback) if each.init}
    ledger.receive(Callback(**values))
    return _plain("Stored.")


@never_cache
@require_GET
def desk(request: HttpRequest) -> HttpResponse:
    """Show the clicks, their conversions and the callbacks."""
    context = {
        "clicks": [(click, ledger.of_click(click)) for click in reversed(ledger.clicks)],
        "callbacks": ledger.callbacks[::-1],
    }
    return render(request, "partner_site/desk.html", context)


@never_cache
@require_GET
def callbacks_json(request: HttpRequest) -> HttpResponse:
    """Return the received callbacks, oldest first, for the demo's story."""
    return JsonResponse([asdict(callback) for callback in ledger.callbacks], safe=False)


def _plain(answer: str) -> HttpResponse:
    return HttpResponse(answer, content_type="text/plain", status=settings.CALLBACK_STATUS)
