"""Products, orders, and readers of the newsletter."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.core.validators import RegexValidator
from django.db import models, transaction
from django.urls import reverse
from django.utils import timezone

from store.signals import order_paid, order_refunded


class Product(models.Model):
    """A tea in its tin."""

    name = models.CharField(max_length=80)
    slug = models.SlugField(unique=True)
    origin = models.CharField(max_length=80)
    summary = models.CharField(max_length=160)
    description = models.TextField()
    colour = models.CharField(max_length=7, validators=[RegexValidator(r"^#[0-9a-f]{6}\Z")])
    price = models.DecimalField(max_digits=8, decimal_places=2)
    currency = models.CharField(max_length=3, default="EUR")

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        """Return the page of the product."""
        return reverse("store:product", args=[self.slug])


class Order(models.Model):
    """An order of one tin of tea, with or without an account."""

    # The key is in the address of the order's page, so that a guest can return to it.
    key = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="orders",
    )
    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="orders")
    email = models.EmailField()
    total = models.DecimalField(max_digits=8, decimal_places=2)
    currency = models.CharField(max_length=3)
    coupon = models.CharField(max_length=40, blank=True)
    # Affiliations: the visitor to whom the order is credited, whichever request saves it.
    affiliate_visitor = models.ForeignKey(
        "affiliations.Visitor",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        related_name="+",
    )
    created_on = models.DateTimeField(auto_now_add=True)
    paid_on = models.DateTimeField(null=True, blank=True)
    payment_id = models.CharField(max_length=64, null=True, blank=True, unique=True)
    refunded_on = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"Order {self.pk}"

    def get_absolute_url(self) -> str:
        """Return the page of the order."""
        return reverse("store:order", args=[self.key])

    def record_payment(self, payment_id: str) -> bool:
        """Mark the order paid and send `order_paid`; return `False` if it was paid before."""
        with transaction.atomic():
            unpaid = Order.objects.filter(pk=self.pk, paid_on=None)
            if not unpaid.update(paid_on=timezone.now(), payment_id=payment_id):
                return False
            self.refresh_from_db()
            order_paid.send(sender=Order, instance=self)
        return True

    def renew(self, payment_id: str) -> Order:
        """Return the order that this payment renews, as every month; create it the first time."""
        renewal, _ = Order.objects.get_or_create(
            payment_id=payment_id,
            defaults={
                "user": self.user,
                "product": self.product,
                "email": self.email,
                "total": self.total,
                "currency": self.currency,
            },
        )
        return renewal

    def record_refund(self) -> bool:
        """Mark a paid order refunded and send `order_refunded`; return `False` if not possible."""
        with transaction.atomic():
            paid = Order.objects.filter(pk=self.pk, paid_on__isnull=False, refunded_on=None)
            if not paid.update(refunded_on=timezone.now()):
                return False
            self.refresh_from_db()
            order_refunded.send(sender=Order, instance=self)
        return True


class NewsletterReader(models.Model):
    """A reader of the shop's newsletter, with or without an account."""

    email = models.EmailField(unique=True)
    since = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return self.email
