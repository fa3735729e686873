"""The pages of the shop, and the webhook for its payment provider."""

from __future__ import annotations

import json

from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from affiliations.tracking import current_visitor
from store import payments
from store.forms import EmailForm, OrderForm, SignUpForm
from store.models import NewsletterReader, Order, Product


def product_list(request: HttpRequest) -> HttpResponse:
    """Show all teas, and offer the newsletter."""
    context = {"products": Product.objects.all(), "form": _email_form(request)}
    return render(request, "store/product_list.html", context)


def product_page(request: HttpRequest, slug: str) -> HttpResponse:
    """Show one tea and take an order for it."""
    product = get_object_or_404(Product, slug=slug)
    form = _email_form(request, OrderForm)
    if form.is_valid():
        order = Order.objects.create(
            user=request.user if request.user.is_authenticated else None,
            product=product,
            email=form.cleaned_data["email"],
            total=product.price,
            currency=product.currency,
            coupon=form.cleaned_data["coupon"],
            # Affiliations: the visitor to credit, now and when the payment arrives.
            affiliate_visitor=current_visitor(request),
        )
        return redirect(order)
    return render(request, "store/product.html", {"product": product, "form": form})


def order_page(request: HttpRequest, key: str) -> HttpResponse:
    """Show an order and whether it is paid or refunded."""
    order = get_object_or_404(Order.objects.select_related("product"), key=key)
    pay_url = payments.checkout_url(order, request.build_absolute_uri(order.get_absolute_url()))
    return render(request, "store/order.html", {"order": order, "pay_url": pay_url})


def order_list(request: HttpRequest) -> HttpResponse:
    """Show the orders of the logged-in user."""
    if not request.user.is_authenticated:
        return redirect_to_login(request.path)
    orders = request.user.orders.select_related("product")
    return render(request, "store/order_list.html", {"orders": orders})


def newsletter(request: HttpRequest) -> HttpResponse:
    """Add a reader of the newsletter; the response does not reveal existing readers."""
    form = _email_form(request)
    if form.is_valid():
        NewsletterReader.objects.get_or_create(email=form.cleaned_data["email"])
        messages.success(request, "Thank you. The next letter comes to you.")
        return redirect("store:products")
    return render(request, "store/newsletter.html", {"form": form})


def sign_up(request: HttpRequest) -> HttpResponse:
    """Create an account and log the user in."""
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
    Record the payment provider's notice that an order was paid, renewed or refunded.

    The request comes from the provider: it has no session of the buyer and no visitor. A provider
    repeats a notice until it receives status 200, so the same notice may arrive many times.
    """
    if not payments.is_signed(request.body, request.headers.get(payments.SIGNATURE_HEADER, "")):
        return JsonResponse({"error": "The signature is wrong."}, status=403)
    try:
        notice = json.loads(request.body)
        payment_id, order_number = str(notice["payment_id"]), int(notice["order"])
        paid = (str(notice["amount"]), str(notice["currency"]))
        is_refund = {"paid": False, "refunded": True}[notice["event"]]
    except (ValueError, KeyError, TypeError):
        return JsonResponse({"error": "This is not a payment notice."}, status=400)
    order = get_object_or_404(Order, pk=order_number)
    if paid != (str(order.total), order.currency):
        return JsonResponse({"error": "The amount does not match the order."}, status=400)
    if notice.get("renewal"):
        order = order.renew(payment_id)
    # The notice of a refund may arrive before that of its payment, so record the payment as well.
    news = order.record_payment(payment_id)
    order.refresh_from_db()
    if order.payment_id != payment_id:
        return JsonResponse({"error": "The order was paid by another payment."}, status=409)
    if is_refund:
        news = order.record_refund()
    return JsonResponse({"order": order.pk, "news": news})


def _email_form(request: HttpRequest, form: type[EmailForm] = EmailForm) -> EmailForm:
    """Return a form for an e-mail address, filled with that of the logged-in user."""
    known = request.user.email if request.user.is_authenticated else ""
    return form(request.POST or None, initial={"email": known})
