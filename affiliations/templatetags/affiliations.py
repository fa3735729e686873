"""Template tags, also for templates of the host."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from affiliations import amounts
from affiliations.conf import settings

if TYPE_CHECKING:
    from django.template.context import Context

    from affiliations.models import Partner

register = template.Library()


@register.simple_tag(takes_context=True)
def tracking_link(
    context: Context, partner: Partner, url: str = "/", click_id: str = "", **sub_ids: str
) -> str:
    """
    Return a partner's tracking link to a page of this site, absolute if there is a request.

    ``{% tracking_link partner "/path/?x=1" click_id="42" sub1="mail" %}``
    """
    link = partner.link(url, click_id=click_id, **sub_ids)
    request = context.get("request")
    try:
        return link if request is None else str(request.build_absolute_uri(link))
    except KeyError:  # Code has made the request without a host.
        return link


@register.simple_tag
def sends_callbacks() -> bool:
    """Tell whether this site sends callbacks at all."""
    return settings.send_callbacks


@register.inclusion_tag("admin/affiliations/includes/waiting.html", takes_context=True)
def affiliations_overview(context: Context) -> dict[str, Any]:
    """
    Say in one line what waits for staff, on an index page of the Admin of your own.

    It is empty for users who may not view the overview. ``{% affiliations_overview %}``
    """
    from affiliations.admin.overview import first_line

    return first_line(context["request"])


@register.simple_tag
def money(value: Decimal, currency: str) -> str:
    """
    Format an amount in the reader's language, with the decimals of its currency and its code.

    ``{% money settlement.total settlement.currency %}``
    """
    return amounts.money(value, currency)


@register.filter
def with_total_row(table: SafeString, cells: Sequence[tuple[str, str]]) -> str:
    """
    Add a last row to the table of a list, whose template, the Admin's or a theme's, has none.

    ``cells`` are the names of the columns and the texts.
    """
    before, end, after = table.rpartition("</table>")
    if not end:
        return table
    row = format_html_join("", '<td class="field-{}">{}</td>', cells)
    foot = format_html("<tfoot><tr>{}</tr></tfoot>", row)
    return mark_safe(f"{before}{foot}{end}{after}")  # noqa: S308 -- all of it is safe
