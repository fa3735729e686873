"""The provider's pages: pay, refund, renew, and list the notices to the shop."""

from __future__ import annotations

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.utils.crypto import constant_time_compare
from django.views.decorators.http import require_GET, require_POST

from payment_provider.book import Payment, sign

book: dict[str, Payment] = {}


@require_GET
def payments(request: HttpRequest) -> HttpResponse:
    """List the payments with the shop's response to each notice."""
    return render(
        request, "payment_provider/payments.html", {"payments": list(book.values())[::-1]}
    )


@require_GET
def checkout(request: HttpRequest) -> HttpResponse:
    """Show the buyer the amount to pay, which the shop has signed."""
    signed, _, signature = request.META["QUERY_STRING"].partition("&signature=")
    if not constant_time_compare(sign(signed.encode()), signature):
        return render(request, "payment_provider/refused.html", status=403)
    # An order always has the same payment, however often the buyer opens this page.
    payment_id = f"pay_{signature[:16]}"
    names = ("order", "amount", "currency", "return_url")
    asked = {name: request.GET.get(name, "") for name in names}
    payment = book.setdefault(payment_id, Payment(payment_id, **asked))
    return render(request, "payment_provider/checkout.html", {"payment": payment})


@require_POST
def pay(request: HttpRequest, payment_id: str) -> HttpResponse:
    """Take the money, notify the shop, and redirect the buyer back."""
    payment = _payment(payment_id)
    payment.made = True
    if not payment.notify_shop():
        return render(request, "payment_provider/unheard.html", {"payment": payment}, status=502)
    return HttpResponseRedirect(payment.return_url)


@require_POST
def refund(request: HttpRequest, payment_id: str) -> HttpResponse:
    """Refund the payment, and notify the shop."""
    payment = _payment(payment_id)
    if payment.made:
        payment.refunded = True
        payment.notify_shop()
    return redirect("payments")


@require_POST
def renew(request: HttpRequest, payment_id: str) -> HttpResponse:
    """Take the same amount once more, as every month, and notify the shop."""
    payment = _payment(payment_id)
    if payment.made and not payment.refunded:
        renewal = payment.renew()
        book[renewal.payment_id] = renewal
        renewal.notify_shop()
    return redirect("payments")


@require_POST
def notify_again(request: HttpRequest, payment_id: str) -> HttpResponse:
    """Notify the shop of a payment again, as providers do if they are not sure of the first."""
    payment = _payment(payment_id)
    if payment.made:
        payment.notify_shop()
    return redirect("payments")


def _payment(payment_id: str) -> Payment:
    try:
        return book[payment_id]
    except KeyError:
        raise Http404("There is no such payment.") from None
