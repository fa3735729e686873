"""Deciding: the questions that are asked first, and what is said afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import model_ngettext
from django.contrib.admin.widgets import AdminTextInputWidget
from django.template.response import TemplateResponse
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from affiliations.decisions import TRANSITIONS, decide, stop_for_fraud
from affiliations.models import Conversion

if TYPE_CHECKING:
    from django.db.models import Model, QuerySet
    from django.http import HttpRequest, HttpResponse

__all__ = ["TRANSITIONS", "stop_for_fraud"]

Status = Conversion.Status

#: So many of a whole list are done at once, so that a browser is not left waiting.
AT_ONCE = 500
_EXAMPLES = 10


class ReasonForm(forms.Form):
    """Why somebody decides so."""

    reason = forms.CharField(
        label=_("reason"), max_length=255, widget=AdminTextInputWidget(attrs={"autofocus": True})
    )


class RejectForm(ReasonForm):
    """Why something is not paid for."""

    hint = _(
        "The partner can read it on their page, and on the next statement where this was settled "
        "already."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["reason"].help_text = self.hint


class ApproveForm(RejectForm):
    """Why something is paid for, which may go without saying."""

    hint = _(
        "Kept in the history. The partner can read it only where this was settled before and then "
        "rejected: on the next statement."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["reason"].required = False


class ReopenForm(ApproveForm):
    """Why something waits again, which may go without saying."""

    hint = _("The partner can read it on their page, while this waits.")


class FraudForm(RejectForm):
    """Why the deal with somebody ends, and what is undecided is rejected."""

    hint = _("The partner can read it, should you ever give them a link to their page again.")


#: What each decision is called on its page, what is asked, and what was done.
WORDS: dict[str, tuple[Any, type[forms.Form], Any]] = {
    Status.APPROVED: (_("Approve"), ApproveForm, _("Approved.")),
    Status.REJECTED: (_("Reject"), RejectForm, _("Rejected.")),
    Status.PENDING: (_("Bring back"), ReopenForm, _("Brought back; it waits again.")),
}


def decided(
    model_admin: admin.ModelAdmin, request: HttpRequest, one: Conversion, status: str, reason: str
) -> bool:
    """Decide a conversion and write down that it was; ``False`` where that is no way to go."""
    if status not in TRANSITIONS[one.status]:
        return False
    if not decide(one, status, reason=reason, by=request.user):  # type: ignore[arg-type] # signed in
        return False
    said = str(WORDS[status][2])
    model_admin.log_change(request, one, f"{said} {reason}".strip())
    return True


def decidable(rows: QuerySet, status: str) -> QuerySet:
    """Keep the conversions that can become ``status``."""
    return rows.filter(status__in=[one for one, ways in TRANSITIONS.items() if status in ways])


def decide_all(
    model_admin: admin.ModelAdmin,
    request: HttpRequest,
    rows: QuerySet,
    status: str,
    reason: str,
) -> None:
    """Decide what was selected, each in its own transaction, and say how many."""
    found = list(rows.select_related("visitor", "partner").order_by("pk"))
    done = sum(decided(model_admin, request, one, status, reason) for one in found)
    said = ngettext("%(count)s conversion: %(done)s", "%(count)s conversions: %(done)s", done)
    model_admin.message_user(request, said % {"count": done, "done": WORDS[status][2]})
    if left := len(found) - done:
        said = ngettext(
            "%(count)s stays as it is: it is decided so already, or somebody has just decided.",
            "%(count)s stay as they are: they are decided so already, or somebody has just "
            "decided.",
            left,
        )
        model_admin.message_user(request, said % {"count": left}, messages.WARNING)


def ask_about_all(
    model_admin: admin.ModelAdmin,
    request: HttpRequest,
    rows: QuerySet,
    able: QuerySet,
    title: Any,
    form_class: type[forms.Form],
    do: Callable[[QuerySet, dict[str, Any]], None],
) -> HttpResponse | None:
    """
    Ask before something is done to what was selected; ``None`` when all of it has been done.

    ``able`` are those of the selected ``rows`` with which it can be done. Of a whole list so many
    are done at once: exactly those that were shown. Then the same is asked about older ones: what
    was done may leave a row as it is, or add a newer one.
    """
    form = form_class(request.POST if "confirmed" in request.POST else None)
    is_done = form.is_valid()
    is_whole_list = request.POST.get("select_across") == "1"
    if is_done:
        keys = request.POST.getlist(ACTION_CHECKBOX_NAME)
        do(rows.filter(pk__in=keys), form.cleaned_data)
        if not is_whole_list:
            return None
        able = able.filter(pk__lt=min(map(int, keys)))
        form = form_class(initial=form.cleaned_data)
    found: list[Model] = list(able.order_by("-pk")[: AT_ONCE + 1 if is_whole_list else None])
    if not found:
        if not is_done:
            text = gettext("This can be done with none of those that are selected.")
            model_admin.message_user(request, text, messages.WARNING)
        return None
    has_more = is_whole_list and len(found) > AT_ONCE
    shown = found[:AT_ONCE] if has_more else found
    count = len(shown)
    request.current_app = model_admin.admin_site.name
    return TemplateResponse(
        request,
        "admin/affiliations/confirm_selected.html",
        model_admin.admin_site.each_context(request)
        | {
            "opts": model_admin.opts,
            "title": title,
            "media": model_admin.media,
            "form": form,
            "count": count,
            "name": model_ngettext(rows, count),
            "has_more": has_more,
            "keys": [row.pk for row in shown],
            "examples": shown[:_EXAMPLES],
            "unnamed": max(count - _EXAMPLES, 0),
            "action": request.POST["action"],
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
        },
    )
