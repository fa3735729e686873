from __future__ import annotations

from django.contrib.auth.models import AbstractUser
from django.db import models


class Customer(AbstractUser):
    pass


class Order(models.Model):
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT)
    affiliate_visitor = models.ForeignKey(
        "affiliations.Visitor", null=True, editable=False, on_delete=models.SET_NULL
    )
    total = models.DecimalField(max_digits=9, decimal_places=2)
    currency = models.CharField(max_length=3)

    def __str__(self) -> str:
        return f"Order {self.pk}"
