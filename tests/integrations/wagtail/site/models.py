from __future__ import annotations

from modelcluster.fields import ParentalKey
from wagtail.admin.panels import InlinePanel
from wagtail.contrib.forms.models import AbstractForm, AbstractFormField
from wagtail.models import Page
from wagtail.snippets.models import register_snippet

from tests.testapp.models import Order


class FormField(AbstractFormField):
    page = ParentalKey("FormPage", related_name="form_fields")


class FormPage(AbstractForm):
    template = landing_page_template = "site/form_page.html"
    content_panels = [*Page.content_panels, InlinePanel("form_fields")]


# Staff type in orders beside the pages.
register_snippet(Order)
