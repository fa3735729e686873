"""What a partner verifies, with the package that the documentation tells them to use."""

from __future__ import annotations

import socket
import time
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from affiliations.callbacks import signature, worker
from affiliations.callbacks.transport import send
from affiliations.models import Callback, CallbackAttempt, Partner
from affiliations.models.partner import new_signing_secret
from tests.factories import CallbackFactory, PartnerFactory, SubscriptionFactory
from tests.raw_partner import OK, RawPartner, redirecting

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def _this_machine(settings: Any) -> None:
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]


def verify(request: bytes, secret: str = SECRET) -> None:
    """Do what the documentation tells a partner to do with a request that has come in."""
    line, *fields = request.decode("ascii").split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields if field)
    _, path_and_query, _ = line.split(" ")
    # There is no JSON in a GET.
    Webhook(secret).verify(path_and_query, headers, json_parse=False)


def signed(path_and_query: str) -> dict[str, str]:
    callback = Callback(webhook_id=ID, partner=Partner(signing_secret=SECRET))
    return dict(signature.headers(callback, path_and_query))


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
        def answer(connection: socket.socket) -> None:
            # A header is bytes, and these are UTF-8.
            location = f"{partner.url}/é?v=%7e 1&w=%2f50%#x".encode().decode("latin-1")
            connection.sendall(redirecting(location) if len(partner.requests) == 1 else OK)

        with RawPartner(answer) as partner:
            assert send(f"{partner.url}?v=1", signed).delivered
        for request in partner.requests:
            verify(request)
        assert b"/cb/%C3%A9?v=~%201&w=%2F50%25 " in partner.requests[1]

    @pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"])
    def test_is_not_given_to_another_server(self, address: str) -> None:
        with (
            RawPartner(address=address) as other,
            RawPartner(redirecting(f"{other.url}?v=1")) as partner,
        ):
            assert send(f"{partner.url}?v=1", signed).delivered
        verify(partner.requests[0])
        assert b"webhook-" not in other.requests[0].lower()

    def test_is_not_given_to_another_server_that_seems_to_be_the_own_one(self) -> None:
        def answer(connection: socket.socket) -> None:
            # A backslash ends the host, where it is called.
            connection.sendall(redirecting(rf"http://{other.host}\@{partner.host}/cb?v=1"))

        with RawPartner() as other, RawPartner(answer) as partner:
            assert send(f"{partner.url}?v=1", signed).delivered
        assert len(other.requests) == 1
        assert b"webhook-" not in other.requests[0].lower()

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
    def deliver(self, partner_server: RawPartner, **fields: Any) -> Partner:
        callback = CallbackFactory(url=f"{partner_server.url}?v=1", **fields)
        assert worker.deliver([callback.pk]).delivered == 1
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
                worker.deliver([callback.pk])
            for request in server.requests:
                assert f"\r\nwebhook-id: {callback.webhook_id}\r\n".encode() in request
                verify(request, callback.partner.signing_secret)
            assert len(server.requests) == 2

    def test_is_signed_with_both_secrets_for_a_day_after_one_was_replaced(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with RawPartner() as server:
            old = self.deliver(server)
            call_command("replace_signing_secret", old.uid)
            new_secret = capsys.readouterr().out.strip()
            self.deliver(server, partner=Partner.objects.get(pk=old.pk))
            verify(server.requests[1], new_secret)
            verify(server.requests[1], old.signing_secret)

            Partner.objects.update(previous_secret_until=timezone.now())
            self.deliver(server, partner=Partner.objects.get(pk=old.pk))
            verify(server.requests[2], new_secret)
            with pytest.raises(WebhookVerificationError):
                verify(server.requests[2], old.signing_secret)

    def test_is_signed_with_the_new_secret_alone_once_staff_end_the_old_one(self) -> None:
        with RawPartner() as server:
            old = self.deliver(server)
            partner = Partner.objects.get(pk=old.pk)
            partner.replace_signing_secret()
            partner.end_previous_secret()
            self.deliver(server, partner=Partner.objects.get(pk=old.pk))
            with pytest.raises(WebhookVerificationError):
                verify(server.requests[1], old.signing_secret)

    @pytest.mark.parametrize("secret", ["whsec_x", "whsec_é", "whsec_!!!!", "not base64", "whsec_"])
    def test_whose_secret_is_invalid_fails_by_our_fault(self, secret: str) -> None:
        with RawPartner() as server:
            callback = CallbackFactory(
                url=server.url, partner=PartnerFactory(signing_secret=secret)
            )
            worker.deliver([callback.pk])
        attempt = CallbackAttempt.objects.get()
        assert attempt.error == CallbackAttempt.Error.CONFIGURATION
        assert server.requests == []
        callback.subscription.refresh_from_db()
        assert callback.subscription.failure_count == 0

    @pytest.mark.parametrize("secret", ["whsec_x", "", "whsec_"])
    def test_is_signed_at_once_after_an_invalid_secret_was_replaced(self, secret: str) -> None:
        with RawPartner() as server:
            partner = PartnerFactory(signing_secret=secret)
            new_secret = partner.replace_signing_secret()
            self.deliver(server, partner=partner)
            verify(server.requests[0], new_secret)

    def test_that_is_a_post_is_signed_over_its_body(self) -> None:
        with RawPartner() as server:
            subscription = SubscriptionFactory(callback_url=server.url, method="POST")
            callback = CallbackFactory(
                url=server.url, method="POST", body='{"type":"é"}', subscription=subscription
            )
            worker.deliver([callback.pk])
        head = server.requests[0]
        assert head.startswith(b"POST /cb HTTP/1.1\r\n")
        assert b"Content-Type: application/json\r\n" in head
        lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        Webhook(callback.partner.signing_secret).verify(callback.body, lines)


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
        with pytest.raises(CommandError, match="Partner 'nobody77' does not exist"):
            call_command("replace_signing_secret", "nobody77")
