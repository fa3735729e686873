"""The pages of the shop, and the door at which its payment provider knocks."""

from __future__ import annotations

import json

from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from affiliations import visitors
from store import payments
from store.forms import EmailForm, SignUpForm
from store.models import NewsletterReader, Order, Product


def product_list(request: HttpRequest) -> HttpResponse:
    """Show all teas, and offer the newsletter."""
    context = {"products": Product.objects.all(), "form": _email_form(request)}
    return render(request, "store/product_list.html", context)


def product_page(request: HttpRequest, slug: str) -> HttpResponse:
    """Show one tea and take an order for it."""
    product = get_object_or_404(Product, slug=slug)
    form = _email_form(request)
    if form.is_valid():
        order = Order.objects.create(
            user=request.user if request.user.is_authenticated else None,
            product=product,
            email=form.cleaned_data["email"],
            total=product.price,
            currency=product.currency,
            # Affiliations: whom this order is credited to, now and when the payment arrives.
            affiliate_visitor=visitors.current(request),
        )
        return redirect(order)
    return render(request, "store/product.html", {"product": product, "form": form})


def order_page(request: HttpRequest, key: str) -> HttpResponse:
    """Show an order, whether it is paid, and whether the money went back."""
    order = get_object_or_404(Order.objects.select_related("product"), key=key)
    pay_url = payments.checkout_url(order, request.build_absolute_uri(order.get_absolute_url()))
    return render(request, "store/order.html", {"order": order, "pay_url": pay_url})


def order_list(request: HttpRequest) -> HttpResponse:
    """Show the orders of whoever is logged in."""
    if not request.user.is_authenticated:
        return redirect_to_login(request.path)
    orders = request.user.orders.select_related("product")
    return render(request, "store/order_list.html", {"orders": orders})


def newsletter(request: HttpRequest) -> HttpResponse:
    """Send somebody the letter from now on; the answer does not tell who gets it already."""
    form = _email_form(request)
    if form.is_valid():
        NewsletterReader.objects.get_or_create(email=form.cleaned_data["email"])
        messages.success(request, "Thank you. The next letter comes to you.")
        return redirect("store:products")
    return render(request, "store/newsletter.html", {"form": form})


def sign_up(request: HttpRequest) -> HttpResponse:
    """Open an account and log its owner in."""
    form = SignUpForm(request.POST or None)
    if form.is_valid():
        user = form.save()
        login(request, user)
        messages.success(request, f"Welcome, {user.get_username()}. Your account is open.")
        return redirect("store:products")
    return render(request, "store/sign_up.html", {"form": form})


@csrf_exempt
@require_POST
def payment_webhook(request: HttpRequest) -> HttpResponse:
    """
    Take the payment provider's word that an order is paid, or that the money went back.

    The request is the provider's: it has no session of the buyer and no visitor. A provider repeats
    itself until it hears 200, so the same notice may arrive any number of times and counts once.
    """
    if not payments.is_signed(request.body, request.headers.get(payments.SIGNATURE_HEADER, "")):
        return JsonResponse({"error": "The signature is wrong."}, status=403)
    try:
        notice = json.loads(request.body)
        payment_id, order_number = str(notice["payment_id"]), int(notice["order"])
        paid = (str(notice["amount"]), str(notice["currency"]))
        is_refund = {"paid": False, "refunded": True}[notice["event"]]
    except (ValueError, KeyError, TypeError):
        return JsonResponse({"error": "This is no payment."}, status=400)
    order = get_object_or_404(Order, pk=order_number)
    if paid != (str(order.total), order.currency):
        return JsonResponse({"error": "The order costs something else."}, status=400)
    # A refund may overtake the notice of its payment, and says as much.
    news = order.record_payment(payment_id)
    order.refresh_from_db()
    if order.payment_id != payment_id:
        return JsonResponse({"error": "Another payment has paid the order."}, status=409)
    if is_refund:
        news = order.record_refund()
    return JsonResponse({"order": order.pk, "news": news})


def _email_form(request: HttpRequest) -> EmailForm:
    """Make the form that asks for an address, with that of whoever is logged in."""
    known = request.user.email if request.user.is_authenticated else ""
    return EmailForm(request.POST or None, initial={"email": known})
