"""Tests of the demo: its browser, its sites, and how it ends."""

from __future__ import annotations

import io
import os
import signal
import tempfile
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock, patch

import requests
from django.test import SimpleTestCase

from demo.browser import Browser, BrowserError, Page
from demo.management.commands import demo
from demo.sites import Site, SiteDown, free_port, running
from demo.story import StepFailed, Story

PAGE = """
<h1>Log in</h1>
<a href="/help/">I need <b>help</b></a>
<p role="alert">Try again.</p>
<form action="/log-in/" method="post">
  <input type="hidden" name="csrf" value="x"><input name="username">
  <button>Log in</button>
</form>
<form><input type="submit" value="Search"></form>
"""


class BrowserTests(SimpleTestCase):
    """The demo's browser."""

    def setUp(self) -> None:
        """Open a page."""
        self.page = Page(200, "http://127.0.0.1/log-in/").read(PAGE)
        self.browser = Browser(patience=1)
        self.browser.page = self.page

    def test_it_sees_links_forms_and_complaints(self) -> None:
        assert self.page.links == {"I need help": "http://127.0.0.1/help/"}
        assert self.page.complaints == ["Try again."]
        log_in, search = self.page.forms
        assert (log_in.action, log_in.method) == ("http://127.0.0.1/log-in/", "post")
        assert log_in.fields == {"csrf": "x", "username": ""}
        assert (log_in.buttons, search.buttons) == (["Log in"], ["Search"])
        assert self.page.text == "Log in I need help Try again. Log in"

    def test_it_cannot_follow_a_link_that_is_not_there(self) -> None:
        with self.assertRaisesMessage(BrowserError, "has no link “Sign up”"):
            self.browser.follow("Sign up")

    def test_it_cannot_press_a_button_that_is_not_there(self) -> None:
        with self.assertRaisesMessage(BrowserError, "has no button “Pay”"):
            self.browser.press("Pay")

    def test_it_fills_in_only_what_a_form_asks_for(self) -> None:
        with self.assertRaisesMessage(BrowserError, "does not ask for password"):
            self.browser.press("Log in", username="x", password="x")


class SiteTests(SimpleTestCase):
    """The three processes."""

    def site(self, settings: str) -> Site:
        """Return a site whose log is in a directory that is removed after the test."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return Site("the site", settings, free_port(), Path(folder.name) / "log", {})

    def test_a_site_that_cannot_start_is_reported_with_what_it_has_printed(self) -> None:
        site = self.site("no.such.settings")
        with self.assertRaisesMessage(SiteDown, "the site has stopped."), running(site, patience=9):
            pass
        assert "No module named 'no'" in site.output()

    def test_a_site_does_not_outlive_its_block_even_when_that_fails(self) -> None:
        site = self.site("payment_provider.settings")
        with suppress(ZeroDivisionError), running(site, patience=30):
            assert site.port != free_port(site.port)
            _ = 1 / 0
        assert site.port == free_port(site.port)
        with self.assertRaisesMessage(SiteDown, "the site has stopped."):
            site.check()

    def test_a_site_that_is_not_there_fails_the_step(self) -> None:
        site = self.site("payment_provider.settings")
        story = Story(site, site, site, say=lambda _: None, patience=1)
        with self.assertRaisesMessage(StepFailed, "Connection refused"):
            story.play()


class EndingTests(SimpleTestCase):
    """Ctrl-C while the demo waits."""

    def setUp(self) -> None:
        """Restore the signal handlers after the test."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.command = demo.Command(stdout=io.StringIO())
        self.site = Mock(spec=Site, url="http://127.0.0.1/")

    def wait(self, received_by: Callable[..., list[dict[str, str]]]) -> None:
        """Let the demo wait, with a stub for what the partner has received."""
        link = patch.object(demo.deal, "page_of_partner", return_value="http://127.0.0.1/")
        with link, patch.object(demo, "received_by", received_by):
            self.command._wait(self.site, self.site, self.site, Path("logs"))

    def test_it_is_not_lost_where_python_finalizes_an_object(self) -> None:
        def received_by(*_: object, **__: object) -> list[dict[str, str]]:
            # Python drops, and only prints, an exception that comes here.
            weakref.finalize(Mock(), os.kill, os.getpid(), signal.SIGINT)
            return []

        with self.assertRaisesMessage(KeyboardInterrupt, ""):
            self.wait(received_by)

    def test_it_ends_the_demo_though_it_has_ended_the_sites_first(self) -> None:
        def received_by(*_: object, **__: object) -> list[dict[str, str]]:
            os.kill(os.getpid(), signal.SIGTERM)
            raise requests.ConnectionError

        with self.assertRaisesMessage(SystemExit, "143"):
            self.wait(received_by)

    def test_a_site_that_stops_by_itself_is_reported(self) -> None:
        self.site.check.side_effect = SiteDown("the site has stopped.")
        with self.assertRaisesMessage(SiteDown, "the site has stopped."):
            self.wait(lambda *_, **__: [])
