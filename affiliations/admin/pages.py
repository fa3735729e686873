"""What staff do with one row beside changing its fields: each a button, and a page of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from django.contrib import admin
from django.contrib.admin.utils import quote, unquote
from django.contrib.auth import get_permission_codename
from django.core.exceptions import PermissionDenied
from django.http import HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse

if TYPE_CHECKING:
    from django.db import models
    from django.http import HttpRequest, HttpResponse

_Page = TypeVar("_Page", bound=Callable[..., Any])

#: The statuses of the app in the colours of the Admin's own messages.
TONES = {
    "approved": "success",
    "delivered": "success",
    "pending": "warning",
    "queued": "info",
    "held": "warning",
    "rejected": "error",
    "exhausted": "error",
    "cancelled": "quiet",
}


def row_page(description: Any, permission: str = "change") -> Callable[[_Page], _Page]:
    """
    Make a method the page of a row, under its own name behind the row's address.

    ``description`` is written on its button. Who has not the ``permission``, as in
    ``@admin.action``, sees no button and gets to no page, by no method.
    """

    def marked(page: _Page) -> _Page:
        page.description, page.permission = description, permission  # type: ignore[attr-defined] # ours
        return page

    return marked


class RowPagesMixin(admin.ModelAdmin):
    """Something whose rows have pages beside their form."""

    #: The names of the methods, in the order of their buttons.
    row_pages: Sequence[str] = ()

    class Media:
        css = {"all": ["affiliations/admin.css"]}
        js = ["affiliations/admin.js"]

    def get_urls(self) -> list[Any]:
        """Put the pages of a row before the Admin's own addresses, which take all that is left."""
        pages = [
            path(
                f"<path:object_id>/{name}/",
                self.admin_site.admin_view(self._row_view(name)),
                name=f"{self.opts.app_label}_{self.opts.model_name}_{name}",
            )
            for name in self.row_pages
        ]
        return pages + super().get_urls()

    def offers(self, name: str, row: Any) -> bool:
        """Tell whether a page makes sense for a row as it stands."""
        return True

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Show the buttons of the pages that somebody may use, and what else there is to see."""
        row = context.get("original")
        if row is not None:
            context["row_buttons"] = [
                (self.row_url(row, name), getattr(self, name).description)
                for name in self.row_pages
                if self._may_use(name, request, row) and self.offers(name, row)
            ]
            if "_popup" not in request.GET:
                context |= self.get_panels(request, row)
        return super().render_change_form(request, context, *args, **kwargs)

    def get_panels(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """Return what the page of a row shows beside its fields."""
        return {}

    def row_url(self, row: Any, name: str = "change") -> str:
        """Return the address of a page of a row, on the same site as this."""
        opts = row._meta
        return reverse(
            f"admin:{opts.app_label}_{opts.model_name}_{name}",
            args=[quote(row.pk)],
            current_app=self.admin_site.name,
        )

    def link_url(self, row: models.Model, name: str = "change") -> str:
        """Return the same, or nothing where this site knows no such rows."""
        return self.row_url(row, name) if self.admin_site.is_registered(type(row)) else ""

    def row_response(
        self,
        request: HttpRequest,
        row: models.Model,
        name: str,
        context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show the page ``name`` of a row."""
        model = self.opts.model_name
        request.current_app = self.admin_site.name
        return TemplateResponse(
            request,
            f"admin/affiliations/{model}/{name}.html",
            self.admin_site.each_context(request)
            | {
                "opts": self.opts,
                "original": row,
                "title": getattr(getattr(self, name, None), "description", ""),
                "subtitle": str(row),
                "media": self.media,
                "has_view_permission": self.has_view_permission(request, row),
                "back": self.row_url(row),
            }
            | (context or {}),
        )

    def done(
        self, request: HttpRequest, row: models.Model, message: str, name: str = "change"
    ) -> HttpResponse:
        """Go to a page of a row after something was done to it, and write down that it was."""
        self.log_change(request, row, message)
        self.message_user(request, message)
        return HttpResponseRedirect(self.row_url(row, name))

    def _row_view(self, name: str) -> Callable[..., Any]:
        def view(request: HttpRequest, object_id: str) -> HttpResponse:
            row = self.get_object(request, unquote(object_id))
            if not self._may_use(name, request, row):
                raise PermissionDenied
            if row is None:
                # To the front page, with a message, as from the Admin's own pages.
                gone = self._get_obj_does_not_exist_redirect  # type: ignore[attr-defined] # private
                home: HttpResponse = gone(request, self.opts, object_id)
                return home
            response: HttpResponse = getattr(self, name)(request, row)
            return response

        return view

    def _may_use(self, name: str, request: HttpRequest, row: models.Model | None) -> bool:
        permission = getattr(self, f"has_{getattr(self, name).permission}_permission")
        return bool(self.has_view_permission(request, row) and permission(request, row))


def may_view(request: HttpRequest, model: type[models.Model]) -> bool:
    """Tell whether somebody may look at the rows of a model in the Admin."""
    names = (get_permission_codename(verb, model._meta) for verb in ("view", "change"))
    return any(request.user.has_perm(f"{model._meta.app_label}.{name}") for name in names)


def list_url(model: type[models.Model], *, site: str) -> str:
    """Return the address of the list of a model in the Admin."""
    opts = model._meta
    return reverse(f"admin:{opts.app_label}_{opts.model_name}_changelist", current_app=site)
