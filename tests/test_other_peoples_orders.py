"""
Somebody marks an order paid that somebody else has placed.

Whoever does it may have followed a partner's link themselves: an admin who tries one out, say. The
buyer's partner is credited, or nobody; never the partner of whose request it happens to be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db.models import QuerySet
from django.db.models.signals import post_save
from django.dispatch import Signal
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path, resolve, reverse
from django.views.decorators.csrf import csrf_exempt

from affiliations.models import Conversion, Visitor
from affiliations.testing import start_referral
from affiliations.tracking import binding
from affiliations.triggers import (
    approve_conversions,
    complete_trigger,
    object_created,
    reject_conversions,
)
from tests.factories import PartnerFactory, SubscriptionFactory, UserFactory
from tests.testapp.models import Order
from tests.urls import urlpatterns as urlpatterns_of_tests

User = get_user_model()
pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]

order_paid, order_refunded = Signal(), Signal()


def count_when_paid(
    sender: object, instance: Order, affiliate_trigger_name: str, **kwargs: object
) -> None:
    """Count an order when it is saved as paid, as often as it is: what a host writes."""
    if instance.note == "paid":
        complete_trigger(binding.current_request(), affiliate_trigger_name, instance=instance)


def pay(order: Order) -> None:
    order.note = "paid"
    order.save()
    order_paid.send(sender=Order, instance=order)


class OrderAdmin(admin.ModelAdmin):
    """What the host's staff have: a form, and an action on a list."""

    fields = ["note"]
    actions = ["mark_paid"]

    def save_model(self, request: HttpRequest, obj: Order, form: Any, change: bool) -> None:
        pay(obj)

    @admin.action
    def mark_paid(self, request: HttpRequest, queryset: QuerySet[Order]) -> None:
        for order in queryset:
            pay(order)


site = admin.AdminSite(name="shop")
site.register(Order, OrderAdmin)


def place(request: HttpRequest) -> HttpResponse:
    """Place an order as the README says: with the buyer and their referral."""
    order = Order.objects.create(
        user=request.user if request.user.is_authenticated else None,
        affiliate_visitor=request.affiliate_visitor or None,
    )
    return HttpResponse(str(order.pk))


@csrf_exempt
def paid(request: HttpRequest, pk: int) -> HttpResponse:
    """Hear from the payment provider, or from staff, that an order is paid."""
    pay(Order.objects.get(pk=pk))
    return HttpResponse("paid")


def refunded(request: HttpRequest, pk: int) -> HttpResponse:
    order_refunded.send(sender=Order, instance=Order.objects.get(pk=pk))
    return HttpResponse("refunded")


urlpatterns = [
    path("shop/", site.urls),
    path("place/", place),
    path("paid/<int:pk>/", paid),
    path("refunded/<int:pk>/", refunded),
    *urlpatterns_of_tests,
]


class MarkPaid(BaseCommand):
    """What a host's nightly job does."""

    def handle(self, *args: object, **options: object) -> None:
        for order in Order.objects.exclude(note="paid"):
            pay(order)


@pytest.fixture
def admin_client() -> Client:
    """Log an admin in who has followed the link of a partner who earns by every trigger."""
    return browser_of("Admin's", UserFactory(is_staff=True, is_superuser=True))


def browser_of(name: str, user: object) -> Client:
    """Make the browser of a user who has followed a partner's link."""
    partner = PartnerFactory(name=name)
    for trigger in ("Order placed", "Order paid"):
        SubscriptionFactory(
            partner=partner,
            trigger=trigger,
            counting="every",
            closes_referral=False,
            approval="manual" if trigger == "Order placed" else "automatic",
        )
    client = Client()
    client.force_login(user)
    start_referral(client, partner)
    return client


def by_form(client: Client, order: Order) -> None:
    url = reverse("shop:testapp_order_change", args=[order.pk])
    assert client.post(url, {"note": "whatever"}).status_code == 302


def by_action(client: Client, order: Order) -> None:
    data = {"action": "mark_paid", "_selected_action": [order.pk]}
    assert client.post(reverse("shop:testapp_order_changelist"), data).status_code == 302


def by_view(client: Client, order: Order) -> None:
    assert client.post(f"/paid/{order.pk}/").status_code == 200


def by_webhook(client: Client, order: Order) -> None:
    assert Client().post(f"/paid/{order.pk}/").status_code == 200


def by_command(client: Client, order: Order) -> None:
    call_command(MarkPaid())


DOORS = [by_form, by_action, by_view, by_webhook, by_command]
Door = Callable[[Client, Order], None]

# What the trigger's fifth item states; whether AFFILIATE_ATTRIBUTE_BY_USER is on; what the order
# is like; and whether its partner is credited.
CASES = [
    ({"visitor": "affiliate_visitor"}, False, "of a referred buyer", True),
    ({"visitor": "affiliate_visitor"}, True, "of a referred buyer", True),
    ({"visitor": "affiliate_visitor"}, False, "of a buyer who came alone", False),
    ({"visitor": "affiliate_visitor"}, True, "of a buyer who came alone", False),
    ({"user": "user"}, False, "of a referred buyer", False),
    ({"user": "user"}, True, "of a referred buyer", True),
    ({"user": "user"}, False, "of a buyer who came alone", False),
    ({"user": "user"}, True, "of a buyer who came alone", False),
    ({"user": "user", "visitor": "affiliate_visitor"}, False, "of a referred buyer", True),
    ({"user": "user", "visitor": "affiliate_visitor"}, True, "of a referred buyer", True),
    ({"user": "user", "visitor": "affiliate_visitor"}, True, "of a buyer who came alone", False),
    # Nobody knows whose it is; that it is the admin's is the last thing to be taken for granted.
    ({"visitor": "affiliate_visitor"}, True, "of nobody", False),
    ({"user": "user"}, False, "of nobody", False),
    ({"user": "user"}, True, "of nobody", False),
    ({"user": "user", "visitor": "affiliate_visitor"}, True, "of nobody", False),
]
# Where the trigger says nothing of whose it is, nobody knows: but in the Admin it is nobody's.
IN_THE_ADMIN = [
    ({}, by_user, kind, False)
    for by_user in (True, False)
    for kind in ("of a referred buyer", "of a buyer who came alone", "of nobody")
]


def placed(kind: str) -> Order:
    """Let somebody place an order in a browser of their own."""
    client = Client()
    if kind == "of a referred buyer":
        client = browser_of("Buyer's", UserFactory())
    elif kind == "of a buyer who came alone":
        client.force_login(UserFactory())
    return Order.objects.get(pk=int(client.get("/place/").content))


@pytest.mark.parametrize(
    ("door", "options", "by_user", "kind", "is_credited"),
    [
        *((door, *case) for door in DOORS for case in CASES),
        *((door, *case) for door in (by_form, by_action) for case in IN_THE_ADMIN),
    ],
)
def test_the_buyers_partner_is_credited_or_nobody(
    wire: Any,
    settings: Any,
    admin_client: Client,
    door: Door,
    options: dict[str, str],
    by_user: bool,
    kind: str,
    is_credited: bool,
) -> None:
    settings.AFFILIATE_ATTRIBUTE_BY_USER = by_user
    saved = "django.db.models.signals.post_save"
    wire([("Order paid", saved, count_when_paid, "testapp.Order", options)])
    of_admin = Visitor.objects.get()
    order = placed(kind)

    door(admin_client, order)
    door(admin_client, order)

    order.refresh_from_db()
    assert order.note == "paid"
    credited = [
        (conversion.partner.name, conversion.visitor.user, conversion.reference)
        for conversion in Conversion.objects.all()
    ]
    expected = ("Buyer's", order.user, f"testapp.order:{order.pk}")
    # Whoever the buyer is taken for, it is not the admin.
    assert set(Conversion.objects.values_list("user", flat=True)) <= {None, order.user_id}
    assert credited == ([expected] if is_credited else [])
    # And of the admin's own referral nothing is lost.
    of_admin.refresh_from_db()
    assert of_admin.closed_on is of_admin.successful_on is None
    assert admin_client.session["affiliate_visitor_id"] == of_admin.pk


@pytest.mark.parametrize("door", DOORS)
def test_an_order_of_a_guest_is_not_taken_for_the_admins(
    wire: Any, admin_client: Client, door: Door
) -> None:
    """Nor is the guest: the referral would be the admin's from then on."""
    saved = "django.db.models.signals.post_save"
    options = {"visitor": "affiliate_visitor"}
    wire([("Order paid", saved, count_when_paid, "testapp.Order", options)])
    guest = browser_of("Buyer's", UserFactory())
    Visitor.objects.filter(partner__name="Buyer's").update(user=None)
    order = Order.objects.get(pk=int(guest.get("/place/").content))
    door(admin_client, order)
    conversion = Conversion.objects.get()
    assert conversion.partner.name == "Buyer's"
    assert conversion.user is conversion.visitor.user is None


def test_a_user_whom_staff_add_is_nobodys_referral(wire: Any, admin_client: Client) -> None:
    wire([("Order paid", post_save, object_created, User)])
    staff = UserFactory(is_staff=True, is_superuser=True)
    request = admin_client.get("/page/").wsgi_request
    request.user, request.resolver_match = staff, resolve("/shop/")
    with binding.binding(request):
        UserFactory()
    assert not Conversion.objects.exists()


@pytest.mark.parametrize("by_user", [True, False])
@pytest.mark.parametrize("options", [{"user": "user"}, {"visitor": "affiliate_visitor"}])
@pytest.mark.parametrize("door", [by_form, by_action, by_view])
def test_what_an_admin_has_bought_themself_is_theirs(
    wire: Any, settings: Any, admin_client: Client, door: Door, options: Any, by_user: bool
) -> None:
    """But a page of staff is not the buyer's browser, whoever saves the order there."""
    settings.AFFILIATE_ATTRIBUTE_BY_USER = by_user
    saved = "django.db.models.signals.post_save"
    wire([("Order paid", saved, count_when_paid, "testapp.Order", options)])
    order = Order.objects.get(pk=int(admin_client.get("/place/").content))
    door(admin_client, order)
    names = list(Conversion.objects.values_list("partner__name", flat=True))
    is_browser_alone = "user" in options and not by_user
    assert names == ([] if is_browser_alone and door is not by_view else ["Admin's"])


@pytest.mark.parametrize("door", DOORS)
def test_a_payment_approves_what_the_buyers_partner_has_earned(
    wire: Any, admin_client: Client, door: Door
) -> None:
    created = "django.db.models.signals.post_save"
    wire(
        [
            ("Order placed", created, object_created, "testapp.Order"),
            ("Paid", order_paid, approve_conversions, None, {"of": "Order placed"}),
            ("Refunded", order_refunded, reject_conversions, None, {"of": "Order placed"}),
        ]
    )
    # The admin has ordered something too, which is not what is paid here.
    theirs = Order.objects.get(pk=int(admin_client.get("/place/").content))
    order = placed("of a referred buyer")
    Order.objects.filter(pk=theirs.pk).update(note="paid")  # some other way, long ago

    door(admin_client, order)

    approved = Conversion.objects.get(status=Conversion.Status.APPROVED)
    assert (approved.partner.name, approved.user) == ("Buyer's", order.user)
    assert approved.reference == f"testapp.order:{order.pk}"
    is_staffs = door in (by_form, by_action, by_view)
    assert approved.decided_by == (theirs.user if is_staffs else None)

    admin_client.post(f"/refunded/{order.pk}/")

    approved.refresh_from_db()
    assert (approved.status, approved.decided_by) == (Conversion.Status.REJECTED, theirs.user)
    assert Conversion.objects.get(user=theirs.user).status == Conversion.Status.PENDING
