"""Triggers that failed because of the database: those that wait, and those that were given up."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db import models, transaction
from django.db.models import Q
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from affiliations import db
from affiliations.admin.actions import RowAction, RowActionsMixin, bulk_action, row_action
from affiliations.admin.base import FactAdmin, UserColumnsMixin, badge, column, link_column
from affiliations.admin.search import ExactSearch, Term
from affiliations.amounts import money, parse
from affiliations.conversions import attempts
from affiliations.models import FailedTrigger, Visitor


def _restart(row: FailedTrigger, reason: str, user: Any) -> FailedTrigger:
    row.restart(db.now())
    transaction.on_commit(attempts.wake, using=db.write_alias(), robust=True)
    return row


_TRY_AGAIN = RowAction(
    call=_restart,
    possible=Q(pk__isnull=False),
    title=_("Try again"),
    done=_("The trigger will be tried again within a minute. Its row is removed when it succeeds."),
    done_many=ngettext_lazy(
        "%(count)s trigger will be tried again within a minute.",
        "%(count)s triggers will be tried again within a minute.",
        "count",
    ),
    explanation=_(
        "The work that failed because of a database error is tried again, even if the order was "
        "deleted. Nothing is credited or decided twice."
    ),
)


@admin.register(FailedTrigger)
class FailedTriggerAdmin(UserColumnsMixin, RowActionsMixin, ExactSearch, FactAdmin):
    list_display = ["pk_display", "state", "kind", "trigger", "reference_start", "partner",
                    "visitor_link", "stated_amount", "tries", "created_on"]  # fmt: skip
    list_filter = ["kind"]
    list_select_related = ["visitor__partner", "user"]
    sortable_by = ["pk_display"]
    search_fields = ["reference"]
    search_help_text = _("Reference.")
    csv_columns = ["id", "kind", "trigger", "reference", "partner", "visitor_id", "user_display",
                   "codes", "amount", "currency", "tries", "error", "created_on"]  # fmt: skip
    fields = ["state", "kind", "trigger", "reference", "partner", "visitor_link", "user_link",
              "codes", "stated_amount", "error", "tries", "created_on", "due_on"]  # fmt: skip
    readonly_fields = ["state", "partner", "visitor_link", "user_link", "stated_amount"]
    row_actions = {"try_again": _TRY_AGAIN}
    object_views = ["try_again"]
    actions = ["try_selected_again"]

    def search(self, term: Term) -> Q:
        return Q(reference__in=term.references)

    reference_start = column("reference", _("reference"))
    partner = column("visitor.partner", _("partner"))
    visitor_link = link_column("visitor", Visitor, _("visitor"))

    try_again = row_action("try_again", _TRY_AGAIN)
    try_selected_again = bulk_action("try_again", _("Try selected %(verbose_name_plural)s again"))

    @admin.display(description=_("amount"))
    def stated_amount(self, failed: FailedTrigger) -> str:
        """Return the amount as other lists show it, or as it was stated if it is not a number."""
        amount = parse(failed.amount, failed.currency).amount
        return failed.stated_amount if amount is None else money(amount, failed.currency.upper())

    @admin.display(description=_("status"))
    def state(self, failed: FailedTrigger) -> str:
        if failed.is_waiting:
            return badge("pending", gettext("waiting"))
        return badge("rejected", gettext("gave up"))

    def has_delete_permission(self, request: Any, obj: models.Model | None = None) -> bool:
        # Unlike other facts, because staff may have credited or decided it in another way.
        return admin.ModelAdmin.has_delete_permission(self, request, obj)
