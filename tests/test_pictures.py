"""Every page has its pictures, and the docs show them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.gallery import LISTS, PICTURES, questions, row_pages

SHOWN = re.findall(
    r"^\.\. image:: images/(\S+)\.png$",
    (Path(__file__).parent.parent / "docs" / "pages.rst").read_text(encoding="utf-8"),
    re.MULTILINE,
)
BESIDE = [f"{model}-{name.replace('_', '-')}" for model, name in [*row_pages(), *questions()]]


@pytest.mark.parametrize("name", [*(f"{model}-list" for model in LISTS), *BESIDE])
def test_a_page_has_its_pictures_in_both_schemes(name: str) -> None:
    for scheme in ("light", "dark"):
        assert f"{name}-{scheme}" in SHOWN
        assert (PICTURES / f"{name}-{scheme}.png").is_file()


def test_no_picture_is_left_that_nothing_shows() -> None:
    assert {picture.stem for picture in PICTURES.glob("*.png")} == set(SHOWN)
