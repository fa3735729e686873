"""Actions on one row, on a page of its own, or on the rows selected in a list."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import model_ngettext
from django.http import HttpResponseRedirect
from django.utils.translation import gettext

from affiliations.admin.pages import CONFIRM, ObjectViewsMixin, object_view

if TYPE_CHECKING:
    from django.db.models import Model, Q, QuerySet
    from django.http import HttpRequest, HttpResponse

_Page = TypeVar("_Page", bound=Callable[..., Any])

#: The maximum of rows of a whole list that one request changes, since a server limits its time.
AT_ONCE = 500
#: The number of selected rows that the question names.
_EXAMPLES = 10
#: A primary key in a form.
_NUMBER = re.compile("[0-9]{1,18}")


@dataclass(frozen=True)
class Exclusion:
    """Rows that an action on several rows leaves out, and lists with links."""

    #: Called with a row; returns why it is left out, or an empty text.
    reason: Callable[[Any], str]
    #: The text above the rows: a lazy plural that takes "count".
    text: Any
    #: The name of the Admin's URL of a page that is for such rows, and the text of the link.
    page: tuple[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class RowAction:
    """What an action does, with which rows, and its texts and form."""

    #: Called with the row, the reason and the user; returns the row to show, or ``None`` if the
    #: action is not possible.
    call: Callable[[Any, str, Any], Model | None]
    #: Matches the rows whose state allows the action.
    possible: Q
    title: Any
    #: The message after the action on one row.
    done: Any
    #: The message after the action on several rows: a lazy plural that takes "count".
    done_many: Any
    #: Called with the arguments of a ``Form``.
    form: Callable[..., forms.Form] = forms.Form
    #: Called with the rows before an action on several of them.
    before_many: Callable[[QuerySet], None] = lambda rows: None
    explanation: Any = ""
    #: The rows that the action leaves out if it is done with several rows.
    left_out: Sequence[Exclusion] = ()

    def why_left_out(self, row: Any) -> tuple[Exclusion, str] | None:
        for group in self.left_out:
            if reason := group.reason(row):
                return group, reason
        return None


class RowActionsMixin(ObjectViewsMixin):
    """A model with actions, each on the page of a row and, if in ``actions``, in the list."""

    row_actions: Mapping[str, RowAction]
    #: The message about selected rows that an action has skipped: a lazy plural that takes "count".
    skipped_many: Any

    def perform(self, request: HttpRequest, row: Any, name: str, reason: str) -> Model | None:
        """Do and log an action; return the row to show, or ``None`` if it is not possible."""
        action = self.row_actions[name]
        result = action.call(row, reason, request.user)
        if result is not None:
            self.log_change(request, row, f"{action.done} {reason}".strip())
        return result

    @abstractmethod
    def refusal(self, row: Any, name: str) -> str:
        """Return the message that says why an action was not possible, and what to do about it."""

    def notes(self, row: Any, name: str) -> Sequence[str]:
        """Return notes about a row that staff should read before an action."""
        return ()

    def report_done(self, request: HttpRequest, row: Model, result: Any, action: RowAction) -> None:
        """Show the message after an action on one row."""
        self.message_user(request, action.done)

    def run(self, request: HttpRequest, row: Model, name: str) -> HttpResponse:
        """Show the page of an action; do it when the form is sent."""
        action = self.row_actions[name]
        form = action.form(request.POST if request.method == "POST" else None)
        if not form.is_valid():
            context = {
                "action": name,
                "title": action.title,
                "explanation": action.explanation,
                "notes": self.notes(row, name),
                "facts": self.facts([row]),
                "form": form,
            }
            return self.row_response(request, row, "action", context)
        result = self.perform(request, row, name, form.cleaned_data.get("reason", ""))
        if result is None:
            self.message_user(request, self.refusal(row, name), messages.WARNING)
        else:
            self.report_done(request, row, result, action)
        return HttpResponseRedirect(self.row_url(result or row))

    def run_selected(self, request: HttpRequest, rows: QuerySet, name: str) -> HttpResponse | None:
        """
        Ask before an action on the selected rows; return ``None`` once it is done with all.

        If the whole list is selected, one request changes at most ``AT_ONCE`` rows: exactly those
        that the page asked about. Then the page asks about older rows only, because the action may
        have skipped some of these rows, and may have added newer ones.
        """
        action = self.row_actions[name]
        form = action.form(request.POST if CONFIRM in request.POST else None)
        is_done = form.is_valid()
        is_whole_list = request.POST.get("select_across") == "1"
        possible = rows.filter(action.possible)
        if is_done:
            # Before the transactions of the rows, so that the form cannot change a row twice.
            if not self.claim_form(request):
                return None
            self._run_all(request, rows, name, form.cleaned_data)
            if not is_whole_list:
                return None
            lowest = request.POST.get("lowest", "")
            possible = possible.filter(pk__lt=int(lowest) if _NUMBER.fullmatch(lowest) else 0)
            form = action.form(initial=form.cleaned_data)
        found: list[Any] = list(possible.order_by("-pk")[: AT_ONCE + 1 if is_whole_list else None])
        if not found:
            if not is_done:
                text = gettext("The status of the selected rows does not allow this action.")
                self.message_user(request, text, messages.WARNING)
            return None
        has_more = is_whole_list and len(found) > AT_ONCE
        asked_about = found[:AT_ONCE] if has_more else found
        left_out: dict[Exclusion, list[tuple[Any, str]]] = {}
        for row in asked_about:
            if why := action.why_left_out(row):
                left_out.setdefault(why[0], []).append((row, why[1]))
        shown = [row for row in asked_about if not action.why_left_out(row)]
        return self.page_response(
            request,
            "confirm_selected",
            {
                "title": action.title,
                "form": form,
                "count": len(shown),
                "name": model_ngettext(rows, len(shown)),
                "has_more": has_more,
                "lowest": asked_about[-1].pk,
                "keys": [row.pk for row in shown],
                "examples": [(row.pk, self.describe(row)) for row in shown[:_EXAMPLES]],
                "more_count": max(len(shown) - _EXAMPLES, 0),
                "facts": self.facts(shown),
                "left_out": [
                    {
                        "text": group.text % {"count": len(group_rows)},
                        "page": group.page,
                        "rows": [
                            (row.pk, self.row_url(row), self.describe(row), reason)
                            for row, reason in group_rows
                        ],
                    }
                    for group, group_rows in left_out.items()
                ],
                "can_act": has_more or shown,
                "action": request.POST["action"],
                "action_checkbox_name": ACTION_CHECKBOX_NAME,
            },
        )

    def describe(self, row: Any) -> str:
        """Return the text of a row on the page that asks about several rows."""
        return str(row)

    def facts(self, rows: Sequence[Any]) -> Sequence[tuple[Any, str]]:
        """Return what a user should know before an action on these rows: labels and values."""
        return ()

    def _run_all(
        self, request: HttpRequest, rows: QuerySet, name: str, data: Mapping[str, Any]
    ) -> None:
        """Do an action with each row, in a transaction of its own."""
        action, reason = self.row_actions[name], data.get("reason", "")
        keys = request.POST.getlist(ACTION_CHECKBOX_NAME)
        chosen = rows.filter(pk__in=keys).order_by("pk")
        action.before_many(chosen)
        # The form sends these rows too, because Django requires at least one selected row.
        named = set(request.POST.getlist("left_out"))
        # Checked again, because a row may have changed since the page was shown.
        results = [
            None if action.why_left_out(row) else self.perform(request, row, name, reason)
            for row in chosen
            if str(row.pk) not in named
        ]
        skipped_count = results.count(None)
        names = {"count": len(results) - skipped_count}
        self.message_user(request, action.done_many % names)
        if skipped_count:
            text = self.skipped_many % {"count": skipped_count}
            self.message_user(request, text, messages.WARNING)


def row_action(name: str, action: RowAction) -> Any:
    @object_view(action.title, permission="act")
    def view(self: RowActionsMixin, request: HttpRequest, row: Model) -> HttpResponse:
        return self.run(request, row, name)

    return view


def bulk_action(name: str, description: Any) -> Any:
    """Return an action of the list that runs the action ``name`` on the selected rows."""

    @admin.action(description=description, permissions=["act"])
    def selected(
        self: RowActionsMixin, request: HttpRequest, queryset: QuerySet
    ) -> HttpResponse | None:
        return self.run_selected(request, queryset, name)

    return selected
