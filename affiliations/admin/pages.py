"""Pages of a row besides its form."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import quote, unquote
from django.contrib.admin.widgets import AdminTextInputWidget
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from affiliations import db
from affiliations.models import SentForm

if TYPE_CHECKING:
    from django.db.models import Model
    from django.http import HttpRequest, HttpResponse

#: The styles of each page; the first is for themes that lack what Django's Admin has.
STYLES = ["affiliations/themes.css", "affiliations/admin.css"]

_Page = TypeVar("_Page", bound=Callable[..., Any])

#: The hidden field with the one-time token of a form.
_FORM_TOKEN = "form_token"  # noqa: S105 -- a name
#: The names of the buttons of a page that shows a preview before it acts.
CONFIRM, EDIT = "confirmed", "edit"


def object_view(
    description: Any, permission: str = "change", *, is_atomic: bool = True, stays: bool = False
) -> Callable[[_Page], _Page]:
    """
    Make a method a page of a row, at the row's address followed by the method's name.

    ``description`` is the label of its button. Users without ``permission``, which is named as in
    ``@admin.action``, see no button and get no page. Set ``is_atomic=False`` for a page that makes
    an HTTP request. Set ``stays=True`` for a page that shows the result of its form itself.
    """

    def decorate(page: _Page) -> _Page:
        page.description, page.permission = description, permission  # type: ignore[attr-defined] # ours
        page.is_atomic, page.stays = is_atomic, stays  # type: ignore[attr-defined] # ours
        return page

    return decorate


class ObjectViewsMixin(admin.ModelAdmin):
    """A model whose rows have further pages besides their form."""

    #: The names of the methods, in the order of their buttons.
    object_views: Sequence[str] = ()

    class Media:
        css = {"all": STYLES}
        js = ["affiliations/admin.js"]

    def get_urls(self) -> list[Any]:
        # Before the Admin's own URLs, the last of which matches everything.
        pages = [
            path(
                f"<path:object_id>/{name}/",
                self.admin_site.admin_view(self._row_view(name)),
                name=f"{self.opts.app_label}_{self.opts.model_name}_{name}",
            )
            for name in self.object_views
        ]
        return pages + super().get_urls()

    def offers(self, name: str, row: Any) -> bool:
        """Tell whether the state of a row allows the action of the page."""
        return True

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        row = context.get("original")
        if row is not None:
            context["row_buttons"] = self.row_buttons(request, row)
            if "_popup" not in request.GET:
                context |= self.get_panels(request, row)
        return super().render_change_form(request, context, *args, **kwargs)

    def row_buttons(self, request: HttpRequest, row: Any) -> list[tuple[str, Any]]:
        return [
            (self.row_url(row, name), getattr(self, name).description)
            for name in self.object_views
            if self._may_use(name, request, row) and self.offers(name, row)
        ]

    def get_panels(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """Return the context of the panels around the fields of a row."""
        return {}

    def row_url(self, row: Any, name: str = "change") -> str:
        opts = row._meta
        return reverse(
            f"admin:{opts.app_label}_{opts.model_name}_{name}",
            args=[quote(row.pk)],
            current_app=self.admin_site.name,
        )

    def list_url(self, model: type[Model]) -> str:
        opts = model._meta
        name = f"admin:{opts.app_label}_{opts.model_name}_changelist"
        return reverse(name, current_app=self.admin_site.name)

    def link_url(self, row: Model, name: str = "change") -> str:
        """Return the URL of a page of a row; empty if its model is not registered on this site."""
        return self.row_url(row, name) if self.admin_site.is_registered(type(row)) else ""

    def page_response(
        self, request: HttpRequest, template: str, context: dict[str, Any]
    ) -> HttpResponse:
        request.current_app = self.admin_site.name
        own = {"opts": self.opts, "media": self.media, _FORM_TOKEN: secrets.token_urlsafe()}
        return TemplateResponse(
            request,
            f"admin/affiliations/{template}.html",
            self.admin_site.each_context(request) | own | context,
        )

    def row_response(
        self,
        request: HttpRequest,
        row: Model,
        name: str,
        context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        own = {
            "original": row,
            "title": getattr(getattr(self, name, None), "description", ""),
            "subtitle": str(row),
            "has_view_permission": self.has_view_permission(request, row),
            "back": self.row_url(row),
        }
        template = f"{self.opts.model_name}/{name}"
        return self.page_response(request, template, own | (context or {}))

    def done(
        self, request: HttpRequest, row: Model, message: str, name: str = "change"
    ) -> HttpResponse:
        """Log a change of a row, show the message and redirect to a page of the row."""
        self.log_change(request, row, message)
        self.message_user(request, message)
        return HttpResponseRedirect(self.row_url(row, name))

    def claim_form(self, request: HttpRequest) -> bool:
        """
        Use up the one-time token of a form; return ``False``, with a message, if it is used up.

        A request without a token, such as that of a script, is always accepted.
        """
        token = request.POST.get(_FORM_TOKEN, "")
        sent = SentForm.objects.using(db.write_alias())
        if not re.fullmatch(r"[\w-]{1,64}", token, re.ASCII) or sent.claim(token):
            return True
        self.message_user(request, gettext("This form was already sent."), messages.WARNING)
        return False

    def once(
        self,
        request: HttpRequest,
        act: Callable[[], HttpResponse],
        url: str,
        *,
        is_atomic: bool = True,
    ) -> HttpResponse:
        """
        Return the response of ``act``; redirect to ``url`` if the form was already sent.

        The token is used up in the transaction of ``act``. So the second click of a double click
        waits for the first. The form can be sent again if ``act`` fails, or if the form has errors.
        Without ``is_atomic``, the token is used up before ``act``. The button that goes back to
        edit the form uses up no token.
        """
        acts = _FORM_TOKEN in request.POST and EDIT not in request.POST
        if request.method != "POST" or not acts:
            return act()
        alias = db.write_alias()
        with transaction.atomic(using=alias) if is_atomic else nullcontext():
            if not self.claim_form(request):
                return HttpResponseRedirect(url)
            response = act()
            form = (getattr(response, "context_data", None) or {}).get("form")
            if is_atomic and form is not None and not form.is_valid():
                transaction.set_rollback(True, using=alias)
            return response

    def _row_view(self, name: str) -> Callable[..., Any]:
        def view(request: HttpRequest, object_id: str) -> HttpResponse:
            row = self.get_object(request, unquote(object_id))
            if not self._may_use(name, request, row):
                raise PermissionDenied
            if row is None:
                return self.no_such_row(request, object_id)
            page = getattr(self, name)
            act = partial(page, request, row)
            url = self.row_url(row, name if page.stays else "change")
            return self.once(request, act, url, is_atomic=page.is_atomic)

        return view

    def no_such_row(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Redirect to the index with a message, as the Admin's own pages do."""
        redirect = self._get_obj_does_not_exist_redirect  # type: ignore[attr-defined] # private
        to_index: HttpResponse = redirect(request, self.opts, object_id)
        return to_index

    def _may_use(self, name: str, request: HttpRequest, row: Model | None) -> bool:
        permission = getattr(self, f"has_{getattr(self, name).permission}_permission")
        return bool(self.has_view_permission(request, row) and permission(request, row))


class ReasonForm(forms.Form):
    """Asks for the reason of a decision."""

    reason = forms.CharField(
        label=_("reason"), max_length=255, widget=AdminTextInputWidget(attrs={"autofocus": True})
    )

    def __init__(self, *args: Any, hint: Any = "", required: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["reason"].help_text = hint
        self.fields["reason"].required = required
