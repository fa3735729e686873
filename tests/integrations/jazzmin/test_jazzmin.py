from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from tests.integrations.pages import address

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(("model", "page"), [("partner", "deal"), ("subscription", "change")])
def test_save_stands_beside_the_fields(
    staff: Client, shown: dict[str, Any], model: str, page: str
) -> None:
    text = staff.get(address(shown, model, page)).text
    fields, buttons = text.index("col-lg-9"), text.index('id="jazzy-actions"')
    assert 'name="_save"' in text[buttons:]
    assert "aff-panel" not in text[fields:buttons]


@pytest.mark.parametrize("model", ["visitor", "conversion"])
def test_the_timeline_is_below_the_buttons(
    staff: Client, shown: dict[str, Any], model: str
) -> None:
    text = staff.get(address(shown, model, "change")).text
    assert text.index('id="jazzy-actions"') < text.index("aff-timeline")
