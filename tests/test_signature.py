"""What a partner verifies, with the package that the documentation tells them to use."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from affiliations.callbacks import delivery, signature
from affiliations.callbacks.transport import send
from affiliations.models import Callback, Partner
from affiliations.models.partner import new_signing_secret
from tests.factories import CallbackFactory, PartnerFactory
from tests.raw_partner import RawPartner, redirecting, sending

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def _this_machine(settings: Any) -> None:
    settings.AFFILIATE_CALLBACK_ALLOW_PRIVATE_ADDRESSES = True


def verify(request: bytes, secret: str = SECRET) -> None:
    """Do what the documentation tells a partner to do with a request that has come in."""
    line, *fields = request.decode("ascii").split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields if field)
    _, path_and_query, _ = line.split(" ")
    # There is no JSON in a GET.
    Webhook(secret).verify(path_and_query, headers, json_parse=False)


def signed(path_and_query: str) -> dict[str, str]:
    return dict(signature.headers(path_and_query, webhook_id=ID, secret=SECRET))


def called(path: str) -> bytes:
    """Return the request that a partner gets when ``path`` of theirs is called."""
    with RawPartner() as partner:
        result = send(f"http://{partner.host}{path}", signed)
        assert result.delivered, result
        return partner.requests[0]


class TestASignature:
    @pytest.mark.parametrize(
        "path",
        [
            "/cb?v=1",
            "/cb",
            "/",
            "",
            "?v=1",
            "/cb?",
            "/cb?v=1&w=",
            "/cb?v=1#top",
            "/cb;s?v=1;2",
            "//cb//?v=//",
            "/a b?v=a b",
            "/a/../b/./c?v=../d",
            "/%7euser/%c3%a9?v=%7e%c3%a9%2F%zz%",
            "/é📚?v=é📚",
            "/[a]{b}|c^d`?v=[a]{b}|c^d`\\",
            '/"a"<b>?v="a"<b>',
            "/cb?v=a+b%20c%2Bd",
            "/cb?url=https://shop.example/?x=1",
        ],
    )
    def test_is_of_the_path_and_query_that_the_partner_sees(self, path: str) -> None:
        verify(called(path))

    def test_holds_after_a_redirect(self) -> None:
        with RawPartner() as last, RawPartner() as first:
            # A header is bytes, and these are UTF-8.
            location = f"{last.url}/é?v=%7e 1#x".encode().decode("latin-1")
            first.answer = sending(redirecting(location))
            assert send(f"{first.url}?v=1", signed).delivered
            verify(first.requests[0])
            verify(last.requests[0])

    def test_of_another_id_another_secret_or_another_address_is_refused(self) -> None:
        request = called("/cb?v=1")
        for forged in (
            request.replace(b"v=1", b"v=2"),
            request.replace(ID.encode(), ID[::-1].encode()),
        ):
            with pytest.raises(WebhookVerificationError):
                verify(forged)
        with pytest.raises(WebhookVerificationError):
            verify(request, new_signing_secret())

    def test_of_long_ago_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = time.time()
        monkeypatch.setattr("affiliations.callbacks.signature.time.time", lambda: now - 600)
        request = called("/cb?v=1")
        monkeypatch.undo()
        with pytest.raises(WebhookVerificationError):
            verify(request)

    def test_is_of_the_path_and_query_that_the_partner_sees_whatever_they_are(self) -> None:
        with RawPartner() as partner:

            @given(st.from_regex(r"[/?][!-~é]{0,20}", fullmatch=True))
            def call(path: str) -> None:
                if send(f"http://{partner.host}{path}", signed).delivered:
                    verify(partner.requests.pop())

            call()


@pytest.mark.django_db
class TestADeliveredCallback:
    def deliver(self, partner_server: RawPartner) -> Partner:
        callback = CallbackFactory(url=f"{partner_server.url}?v=1")
        assert delivery.deliver([callback.pk]).delivered == 1
        return callback.partner

    def test_is_signed_with_the_secret_of_its_partner(self) -> None:
        with RawPartner() as server:
            partner = self.deliver(server)
            verify(server.requests[0], partner.signing_secret)
            with pytest.raises(WebhookVerificationError):
                verify(server.requests[0], PartnerFactory().signing_secret)

    def test_has_the_same_id_over_every_attempt(self) -> None:
        with RawPartner(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n") as server:
            callback = CallbackFactory(url=server.url)
            for _ in range(2):
                Callback.objects.update(next_attempt_on=callback.created_on - timedelta(hours=1))
                delivery.deliver([callback.pk])
            for request in server.requests:
                assert f"\r\nwebhook-id: {callback.webhook_id}\r\n".encode() in request
                verify(request, callback.partner.signing_secret)
            assert len(server.requests) == 2

    def test_is_signed_with_the_new_secret_after_it_was_replaced(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with RawPartner() as server:
            old = self.deliver(server)
            call_command("replace_signing_secret", old.uid)
            new_secret = capsys.readouterr().out.strip()
            callback = CallbackFactory(url=server.url, partner=Partner.objects.get(pk=old.pk))
            delivery.deliver([callback.pk])
            verify(server.requests[1], new_secret)
            with pytest.raises(WebhookVerificationError):
                verify(server.requests[1], old.signing_secret)


@pytest.mark.django_db
class TestReplacingASecret:
    def test_gives_a_new_one_and_keeps_it(self) -> None:
        partner = PartnerFactory()
        old = partner.signing_secret
        new = partner.replace_signing_secret()
        assert new != old
        assert new.startswith("whsec_")
        assert Partner.objects.get().signing_secret == new

    def test_changes_nothing_else(self) -> None:
        partner = PartnerFactory(name="before")
        Partner.objects.update(name="after")
        partner.replace_signing_secret()
        assert Partner.objects.get().name == "after"

    def test_by_command_changes_one_partner_only(self, capsys: pytest.CaptureFixture[str]) -> None:
        one, other = PartnerFactory(), PartnerFactory()
        call_command("replace_signing_secret", one.uid)
        said = capsys.readouterr().out.strip()
        assert Partner.objects.get(pk=one.pk).signing_secret == said != one.signing_secret
        assert Partner.objects.get(pk=other.pk).signing_secret == other.signing_secret

    def test_of_nobody_is_an_error(self) -> None:
        with pytest.raises(CommandError, match="There is no partner 'nobody77'"):
            call_command("replace_signing_secret", "nobody77")
