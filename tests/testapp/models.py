from __future__ import annotations

from django.conf import settings
from django.db import models


class Order(models.Model):
    """What a visitor buys; keeps the visitor, as the README advises a shop to do."""

    note = models.CharField(max_length=200, blank=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True)
    affiliate_visitor = models.ForeignKey(
        "affiliations.Visitor",
        models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        related_name="+",
    )
    total = models.DecimalField(max_digits=12, decimal_places=2, null=True, blank=True)
    currency = models.CharField(max_length=3, blank=True)

    def __str__(self) -> str:
        return self.note


class Newsletter(models.Model):
    """What a visitor signs up for without becoming a user."""

    email = models.EmailField()

    def __str__(self) -> str:
        return self.email


class Elsewhere(models.Model):
    """Something that is kept in the database "other"."""

    note = models.CharField(max_length=200, blank=True)

    def __str__(self) -> str:
        return self.note


class Booking(models.Model):
    """What has a proxy and a child of another table."""

    note = models.CharField(max_length=200, blank=True)

    def __str__(self) -> str:
        return self.note


class PhoneBooking(Booking):
    """A proxy, as an Admin with two lists of one model has it."""

    class Meta:
        proxy = True


class GroupBooking(Booking):
    """A child with a table of its own."""

    size = models.PositiveIntegerField(default=2)
