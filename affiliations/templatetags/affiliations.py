"""Template tags for the host's pages."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from django import template

from affiliations import amounts

if TYPE_CHECKING:
    from django.template.context import Context

    from affiliations.models import Partner

register = template.Library()


@register.simple_tag(takes_context=True)
def tracking_link(
    context: Context, partner: Partner, url: str = "/", click_id: str = "", **sub_ids: str
) -> str:
    """
    Write a partner's tracking link to a page of this site.

    Absolute where the context has the request, which a partner needs; else as ``url`` is.
    ``{% tracking_link partner "/path/?x=1" click_id="42" sub1="mail" %}``
    """
    link = partner.link(url, click_id=click_id, **sub_ids)
    request = context.get("request")
    return link if request is None else str(request.build_absolute_uri(link))


@register.simple_tag
def money(value: Decimal, currency: str) -> str:
    """
    Write an amount as its reader does, with the decimals of its currency and the currency behind.

    ``{% money settlement.total settlement.currency %}``
    """
    return amounts.money(value, currency)
