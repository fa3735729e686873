"""Partners' codes: what can be one, and whose it is."""

from __future__ import annotations

import pytest
from django.core import serializers
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from affiliations.models import Partner, PartnerCode
from affiliations.models import partner as partner_module
from tests.factories import PartnerCodeFactory, PartnerFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def code() -> PartnerCode:
    return PartnerCodeFactory(code="SteepNotes")


@pytest.mark.parametrize(
    "text", ["SteepNotes", "steepnotes", "STEEPNOTES", "  SteepNotes\t\n", "\xa0steepNotes"]
)
def test_a_code_is_found_in_any_case_and_with_blanks(code, text, django_assert_num_queries):
    with django_assert_num_queries(1):
        assert [found.partner for found in PartnerCode.objects.of_texts(text)] == [code.partner]


@pytest.mark.parametrize(
    "text",
    ["", "ab", "-steepnotes", "steepnotes-", "steep notes", "st\0eep", "\0", "stéep",
     "\uff33\uff34\uff25\uff25\uff30", "a" * 41, "x" * 10_000_000, " " * 10_000_000,
     "steepnotes\ud800"],
    ids=lambda text: ascii(text[:12]),
)  # fmt: skip
def test_text_that_cannot_be_a_code_costs_no_query(code, text, django_assert_num_queries):
    with django_assert_num_queries(0):
        assert PartnerCode.objects.of_texts(text) == []


def test_codes_are_found_in_the_order_of_the_texts_by_one_query(code, django_assert_num_queries):
    other = PartnerCodeFactory(code="other-1")
    with django_assert_num_queries(1):
        found = PartnerCode.objects.of_texts("nobody", "OTHER-1", "steepnotes", "other-1")
    assert found == [other, code]


def test_only_so_many_codes_are_looked_up(code):
    texts = [f"nobody-{number}" for number in range(20)]
    assert PartnerCode.objects.of_texts(*texts[1:], "steepnotes") == [code]
    assert PartnerCode.objects.of_texts(*texts, "steepnotes") == []


def test_a_code_is_not_found_while_it_is_inactive(code):
    PartnerCode.objects.update(active=False)
    assert PartnerCode.objects.of_texts("steepnotes") == []


def test_a_code_that_the_database_takes_for_another_is_not_found(code):
    # MariaDB finds it. Only bulk operations can store such a code.
    PartnerCode.objects.update(code="stéepnotes")
    assert PartnerCode.objects.of_texts("steepnotes") == []


@pytest.mark.parametrize(
    "text", ["ab", "a" * 41, "-abc", "abc_", "a b", "abcé", "abc\n", "a\0bc", ""]
)
def test_what_cannot_be_a_code_is_refused_with_what_to_do(text):
    with pytest.raises(ValidationError) as caught:
        PartnerCode(partner=PartnerFactory(), code=text).full_clean()
    expected = "Enter 3 to 40 characters" if text else "This field cannot be blank."
    assert any(expected in message for message in caught.value.message_dict["code"])


@pytest.mark.parametrize("text", ["abc", "a" * 40, "a-_b", "123", "A_1"])
def test_what_can_be_a_code_is_accepted(text):
    code = PartnerCode(partner=PartnerFactory(), code=text)
    code.full_clean()
    code.save()
    assert PartnerCode.objects.of_texts(text.swapcase()) == [code]


@pytest.mark.parametrize("text", ["SteepNotes", "STEEPNOTES"])
def test_a_code_of_another_case_is_refused_by_the_form_and_by_the_database(code, text):
    double = PartnerCode(partner=PartnerFactory(), code=text)
    with pytest.raises(ValidationError) as caught:
        double.full_clean()
    assert caught.value.message_dict == {
        "code": [f"SteepNotes is already a code of {code.partner}. Choose another one."]
    }
    with pytest.raises(IntegrityError), transaction.atomic():
        double.save()


def test_a_code_may_be_saved_again_in_another_case(code):
    code.code = "STEEPNOTES"
    code.full_clean()
    code.save()
    assert PartnerCode.objects.of_texts("steepnotes") == [code]


@pytest.mark.parametrize("uid", ["moox6esi", "MOOX6ESI", "mooX6esi"])
def test_a_code_that_is_the_uid_of_a_partner_in_any_case_is_refused(uid):
    owner = PartnerFactory(uid=uid)
    with pytest.raises(ValidationError) as caught:
        PartnerCode(partner=owner, code="Moox6esi").full_clean()
    assert caught.value.message_dict == {
        "code": [f"Moox6esi is the uid of {owner}. Choose another code."]
    }


def test_a_new_uid_is_nobodys_code(monkeypatch):
    PartnerCodeFactory(code="AbcdefG1")
    uids = iter(["abcdefg1", "abcdefg2"])
    monkeypatch.setattr(partner_module, "new_uid", lambda: next(uids))
    assert PartnerFactory(uid="abcdefg1").uid == "abcdefg2"


def test_a_partner_with_a_code_keeps_the_uid():
    partner = PartnerFactory(uid="abcdefg1")
    PartnerCode.objects.create(partner=partner, code="abcdefg1")
    partner.save()
    assert partner.uid == "abcdefg1"


def test_neither_bulk_operations_nor_fixtures_leave_a_stale_key(code):
    PartnerCode.objects.update(code="NewName")
    assert [row.pk for row in PartnerCode.objects.of_texts("newname")] == [code.pk]
    other = PartnerFactory()
    PartnerCode.objects.bulk_create([PartnerCode(partner=other, code="Second-1")])
    assert PartnerCode.objects.of_texts("second-1")[0].partner == other
    fixture = serializers.serialize("json", PartnerCode.objects.all())
    PartnerCode.objects.all().delete()
    for row in serializers.deserialize("json", fixture):
        row.save()
    assert len(PartnerCode.objects.of_texts("newname", "second-1")) == 2


def find(*readings: bytes) -> Partner | None:
    return PartnerCode.objects.find_partner(*readings)


@pytest.mark.parametrize("text", [b"steepnotes", b"STEEPNOTES", b"steepnotes).", b" steepnotes "])
def test_a_link_leads_to_the_partner_of_a_code(code, text, django_assert_num_queries):
    with django_assert_num_queries(1):  # It is too long for a uid.
        assert find(text) == code.partner


def test_the_uid_in_a_link_comes_before_a_code(django_assert_num_queries):
    owner = PartnerFactory(uid="moox6esi")
    PartnerCodeFactory(code="moox6esi")
    with django_assert_num_queries(1):
        assert find(b"moox6esi") == owner


def test_every_reading_is_tried_as_a_uid_before_any_as_a_code(django_assert_num_queries):
    owner, code = PartnerFactory(uid="moox6esi"), PartnerCodeFactory(code="steep-1")
    with django_assert_num_queries(1):
        assert find(b"steep-1", b"moox6esi") == owner
    with django_assert_num_queries(2):
        assert find(b"nobody", b"steep-1") == code.partner


@pytest.mark.parametrize(
    "text",
    [b"", b"ab", b"!", b"\0", b"steep\0notes", b"x" * 10_000_000, b"a" + b"." * 10_000_000 + b"b"],
)
def test_what_can_be_neither_costs_one_query_at_most(text, django_assert_max_num_queries):
    with django_assert_max_num_queries(1):
        assert find(text) is None


def test_a_link_with_the_code_of_an_inactive_partner_finds_the_partner(code):
    Partner.objects.update(active=False)
    assert find(b"steepnotes") == code.partner
