"""The shop in the Admin."""

from __future__ import annotations

from django.contrib import admin

from store.models import NewsletterReader, Order, Product


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    """Teas."""

    list_display = ["name", "origin", "price", "currency"]
    prepopulated_fields = {"slug": ["name"]}


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    """Orders, with the visitor that each is credited to."""

    list_display = [
        "__str__",
        "product",
        "email",
        "total",
        "currency",
        "created_on",
        "paid_on",
        "refunded_on",
    ]
    list_select_related = ["product"]
    date_hierarchy = "created_on"
    raw_id_fields = ["user"]
    readonly_fields = ["affiliate_visitor"]


@admin.register(NewsletterReader)
class NewsletterReaderAdmin(admin.ModelAdmin):
    """Readers of the newsletter."""

    list_display = ["email", "since"]
