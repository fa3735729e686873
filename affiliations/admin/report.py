"""The report: what came of all the clicks, over time and by partner, trigger or sub id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.forms import Media
from django.http import HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.translation import gettext
from django.views.decorators.http import require_safe

from affiliations import charts, exports
from affiliations.admin import figures
from affiliations.admin.questions import PRESETS, QuestionForm, query
from affiliations.exceptions import Reason
from affiliations.models import Report
from affiliations.reports import report, uncounted

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase

    from affiliations.admin.questions import Question


#: So many partners or labels have a row on the page, those with most clicks; a file has all.
GROUPS = 100


@admin.register(Report)
class ReportAdmin(admin.ModelAdmin):
    """A page of numbers, in the place where other models have their list."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Refuse: there is nothing to add."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse: there is nothing to change."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse: there is nothing to delete."""
        return False

    def get_urls(self) -> list[Any]:
        """Return the addresses of the page and its files, and none of a model's."""
        site, name = self.admin_site, f"{self.opts.app_label}_{self.opts.model_name}"
        return [
            path("", site.admin_view(require_safe(self.page)), name=f"{name}_changelist"),
            path("csv/", site.admin_view(require_safe(self.file)), name=f"{name}_csv"),
        ]

    def page(self, request: HttpRequest) -> HttpResponse:
        """Show the numbers that were asked for, as charts and as tables."""
        form = self._form(request)
        context = self.admin_site.each_context(request) | {
            "opts": self.opts,
            "title": gettext("Report"),
            # A model's own page has scripts, and this one has nothing for them to do.
            "media": Media(css={"all": ["affiliations/admin.css", "affiliations/charts.css"]}),
            "form": form,
            "presets": [
                (label, query(request, period=name, since=None, until=None), form.preset == name)
                for name, label in PRESETS.items()
            ],
        }
        if form.is_valid():
            context |= self._numbers(request, form.question)
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "admin/affiliations/report.html", context)

    def file(self, request: HttpRequest) -> HttpResponseBase:
        """Answer with a table of the page as a CSV file, or with what both are sums of."""
        form = self._form(request)
        if not form.is_valid():
            # The page says what is wrong.
            return HttpResponseRedirect(f"../{query(request)}")
        asked, rows = form.question, request.GET.get("rows")
        step = None if rows == "groups" else asked.step
        by = None if rows == "time" else asked.by
        found = report(asked.period, step=step, by=by, **asked.kept)
        return exports.as_csv(
            request,
            gettext("report"),
            figures.file_header(step, by, found.currencies),
            figures.file_rows(step, by, found),
        )

    def _form(self, request: HttpRequest) -> QuestionForm:
        if not self.has_view_permission(request):
            raise PermissionDenied
        return QuestionForm(request.GET)

    def _numbers(self, request: HttpRequest, asked: Question) -> dict[str, Any]:
        """Return the charts, the tables and where their files are."""
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_csv"
        file = reverse(name, current_app=self.admin_site.name)
        over_time = report(asked.period, step=asked.step, **asked.kept)
        tables = [figures.over_time(asked.step, over_time, file + query(request, rows="time"))]
        if asked.by:
            groups = report(asked.period, by=asked.by, most=GROUPS, **asked.kept)
            csv_url = file + query(request, rows="groups")
            table = figures.by_group(request, asked.by, groups, csv_url)
            names = {"step": asked.step.label, "by": asked.by.label}
            label = gettext("By %(step)s and %(by)s as CSV") % names
            table.files.append((file + query(request, rows=None), label))
            tables.insert(0, table)
        return {
            "asked": asked,
            "sums": figures.sums(over_time),
            "charts": charts.over_time(asked.step, over_time),
            "tables": tables,
            "uncounted": [
                (dict(Reason.choices).get(reason, reason), count)
                for reason, count in uncounted(asked.period, asked.partner)
            ],
        }
