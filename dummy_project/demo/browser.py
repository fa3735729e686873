"""A minimal browser for the demo: follows links and submits the forms of a page."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin

import requests


class BrowserError(Exception):
    """The page does not have the requested link, button or field."""


@dataclass
class Form:
    """A form, with the values of its inputs and the texts of its buttons."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[str] = field(default_factory=list)


@dataclass
class Page(HTMLParser):
    """A page: its text, links, forms and error messages."""

    status: int
    url: str
    text: str = ""
    links: dict[str, str] = field(default_factory=dict)
    forms: list[Form] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def read(self, html: str) -> Page:
        """Parse the HTML."""
        HTMLParser.__init__(self)
        self._inside: list[tuple[str, str, list[str]]] = []
        self.feed(html)
        self.text = " ".join(self.text.split())
        return self

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record forms and inputs, and start collecting the text of links and buttons."""
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            action = urljoin(self.url, given.get("action", ""))
            self.forms.append(Form(action, given.get("method", "get").lower()))
        elif tag == "input" and self.forms and given.get("type") == "submit":
            self.forms[-1].buttons.append(given.get("value", ""))
        elif tag == "input" and self.forms and "name" in given:
            self.forms[-1].fields[given["name"]] = given.get("value", "")
        elif tag in ("a", "button") or given.get("role") == "alert":
            self._inside.append((tag, given.get("href", ""), []))

    def handle_data(self, data: str) -> None:
        """Collect text."""
        self.text += data + " "
        for _, _, words in self._inside:
            words.append(data)

    def handle_endtag(self, tag: str) -> None:
        """Store the collected text."""
        if not self._inside or self._inside[-1][0] != tag:
            return
        _, href, collected = self._inside.pop()
        words = " ".join("".join(collected).split())
        if tag == "a":
            self.links.setdefault(words, urljoin(self.url, href))
        elif tag == "button" and self.forms:
            self.forms[-1].buttons.append(words)
        else:
            self.complaints.append(words)


@dataclass(frozen=True)
class Hop:
    """A redirect on the way to a page."""

    status: int
    url: str
    location: str


class Browser:
    """Keeps cookies, the current page and the redirects that led to it."""

    def __init__(
        self, patience: float, user_agent: str = "Mozilla/5.0 (a person in a demo)"
    ) -> None:
        self._patience = patience
        self._session = requests.Session()
        # The sites are on this machine, so ignore proxies in environment variables.
        self._session.trust_env = False
        # The user agent of requests is on the list of crawlers and would not be counted.
        self._session.headers["User-Agent"] = user_agent
        self.hops: list[Hop] = []
        self.page = Page(0, "about:blank")

    def open(self, url: str) -> Page:
        """Open a URL."""
        return self._arrive(self._session.get(url, timeout=self._patience))

    def follow(self, words: str) -> Page:
        """Click the link with this text."""
        try:
            return self.open(self.page.links[words])
        except KeyError:
            raise BrowserError(f"{self.page.url} has no link “{words}”.") from None

    def press(self, button: str, **fields: str) -> Page:
        """Fill in the form that has this button, and submit it."""
        form = next((form for form in self.page.forms if button in form.buttons), None)
        if form is None:
            raise BrowserError(f"{self.page.url} has no button “{button}”.")
        if unknown := fields.keys() - form.fields.keys():
            raise BrowserError(f"The form at {self.page.url} does not ask for {min(unknown)}.")
        answer = self._session.request(
            form.method, form.action, data={**form.fields, **fields}, timeout=self._patience
        )
        return self._arrive(answer)

    def _arrive(self, answer: requests.Response) -> Page:
        self.hops = [
            Hop(hop.status_code, hop.url, hop.headers["Location"]) for hop in answer.history
        ]
        self.page = Page(answer.status_code, answer.url).read(answer.text)
        return self.page
