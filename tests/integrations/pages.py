"""The pages of our Admin, by the model and the name of each, in a furnished shop."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from django.contrib import admin
from django.contrib.staticfiles import finders
from django.urls import NoReverseMatch, reverse

from tests.shop import SHOWN, furnish, pages, questions

__all__ = [
    "ADMINS",
    "LISTS",
    "Page",
    "address",
    "addresses",
    "furnish",
    "pages",
    "questions",
]

ADMINS = {
    model._meta.model_name: model_admin
    for model, model_admin in admin.site._registry.items()
    if model._meta.app_label == "affiliations"
}
#: The models whose list can be filtered.
LISTS = sorted(model for model in ADMINS if model not in ("overview", "report"))


def addresses() -> list[tuple[str, str]]:
    """Return the model and the name of each address that our models have in the Admin."""
    return [
        (model, pattern.name.removeprefix(f"affiliations_{model}_"))
        for model, model_admin in ADMINS.items()
        for pattern in model_admin.get_urls()
        if pattern.name
    ]


def address(shown: dict[str, Any], model: str, page: str) -> str:
    """Return the path of a page, of a row that has something to show there."""
    name = f"admin:affiliations_{model}_{page}"
    try:
        return reverse(name)
    except NoReverseMatch:  # A page of a row.
        return reverse(name, args=[shown[SHOWN.get(f"{model}-{page}", model)].pk])


class Page(HTMLParser):
    """What a browser finds in a page of forms and of styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open_forms = 0
        self.nested_forms: list[str] = []
        self.styles = "".join(re.findall(r"<style.*?</style>", text, re.DOTALL))
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "form":
            if self.open_forms:
                self.nested_forms.append(self.get_starttag_text() or "")
            self.open_forms += 1
        elif tag == "link" and values.get("rel") == "stylesheet":
            name = (values.get("href") or "").removeprefix("/static/")
            if name and (found := finders.find(name)):
                self.styles += Path(found).read_text(encoding="utf-8")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self.open_forms -= 1
