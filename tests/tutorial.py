"""
A reader of docs/tutorial who does what the pages say, and nothing else.

- A block with a file name as its caption is written to that file; ``…, at the end`` is added to
  it, and ``…, instead of NAME`` replaces what NAME is set to.
- A ``console`` block is typed into the terminal that its caption names. What it shows has to be
  what the command prints; ``...`` stands for anything. If its last line is a prompt, or says how to
  quit, the program goes on.
- A ``text`` block is what a terminal has printed since.
- Each item of a numbered list is one sentence of ``SENTENCES``, for the browser or a terminal.
- An ``image`` is a picture of the browser's window at that moment.

Everything else is prose, which may not quote the screen with “ and ”. Only the two ports are
replaced by free ones, so that others may use the real ones meanwhile.

``python -m tests.tutorial`` does it with a stopwatch.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from tests.chromium import Window, chromium, take_picture

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NAMES = re.findall(r"^ +(tutorial/\w+)$", (DOCS / "index.rst").read_text(encoding="utf-8"), re.M)
PAGES = [DOCS / f"{name}.rst" for name in NAMES]
PORTS = ("8000", "9000")

SECONDS = 60
#: To install takes longer.
SECONDS_OF_A_COMMAND = 900


class Misprint(Exception):
    """A page says what is not so, or what the reader does not understand."""


class Part(NamedTuple):
    """A part of a page that says what to do."""

    kind: str  # file, console, shown, picture or step
    what: str  # the file, the terminal, the picture or the step
    text: str
    place: str


def parts(text: str, place: str) -> Iterator[Part]:
    """Split a page into what is to be done."""
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        line, here = lines[number], f"{place}:{number + 1}"
        number += 1
        if match := re.fullmatch(r"\.\. code-block:: (\S+)", line):
            caption = re.fullmatch(r"   :caption: (.+)", lines[number])
            if not caption:
                raise Misprint(f"{here}: a block needs a caption")
            block, number = _indented(lines, number + 1)
            yield _block(match[1], caption[1], block, here)
        elif match := re.fullmatch(r"\.\. image:: /images/(\S+)", line):
            yield Part("picture", match[1], "", here)
        elif match := re.fullmatch(r"\d+\. +(.+)", line):
            rest, number = _indented(lines, number)
            yield Part("step", " ".join([match[1], *rest.split()]), "", here)
        elif "“" in line or "::" in line.removeprefix(".. seealso::").removeprefix(".. _"):
            raise Misprint(f"{here}: only a step may say what is on the screen: {line}")


def _indented(lines: list[str], number: int) -> tuple[str, int]:
    """Return the lines from a number that are indented, and the number of the one after them."""
    first = number
    while number < len(lines) and (lines[number].startswith("   ") or not lines[number]):
        number += 1
    block = [line.removeprefix("   ") for line in lines[first:number]]
    return "\n".join(block).strip("\n"), number


def _block(language: str, caption: str, code: str, place: str) -> Part:
    if language == "console":
        return Part("console", caption.removesuffix(" terminal"), code, place)
    if match := re.fullmatch(r"The (\w+) terminal shows", caption):
        return Part("shown", match[1].capitalize(), code, place)
    return Part("file", caption, code + "\n", place)


#: What a step may say, and the method of ``Reader`` that does it.
SENTENCES = {
    r"Open (?P<url>http://\S+) in the browser\.": "open",
    r"Open the copied link in a private window\.": "open_copied",
    r"Go back to the (?P<window>window of the Admin|private window)\.": "go_back",
    r"Enter (?P<fields>``.+?`` in \*.+?\*(?:(?:, | and )``.+?`` in \*.+?\*)*)\.": "enter",
    r"Tick \*(?P<label>.+)\*\.": "tick",
    r"Tick the box beside “(?P<row>.+)”\.": "tick_row",
    r"Clear \*(?P<label>.+)\*\.": "clear",
    r"Choose \*(?P<option>.+)\* in \*(?P<label>.+)\*\.": "choose",
    r"Click \*(?P<name>[^*]+)\*(?P<left> on the left)?(?: beside “(?P<row>.+)”)?\.": "click",
    r"Click \*(?P<name>[^*]+)\*, or \*(?P<other>[^*]+)\* before Django [\d.]+\.": "click_either",
    r"You see (?P<texts>“.+?”(?:(?:, | and )“.+?”)*)\.?": "see",
    r"You see a row with (?P<texts>“.+?”(?:(?:, | and )“.+?”)*)\.": "see_row",
    r"Type ``(?P<text>.+)`` at “(?P<prompt>.+)”\.": "type_at",
    r"In the (?P<terminal>\w+) terminal, press Ctrl-C\.": "press_ctrl_c",
    r"The (?P<terminal>\w+) terminal shows “(?P<text>.+)”": "see_in_terminal",
}


def understood(step: str) -> tuple[str, dict[str, str]]:
    """Return the method for a step, and its arguments."""
    for sentence, method in SENTENCES.items():
        if match := re.fullmatch(sentence, step):
            return method, match.groupdict()
    raise Misprint(f"The reader does not understand: {step}")


class Terminal:
    """A shell in a terminal of its own."""

    PROMPT = re.compile(r"\[\[(\d+)\]\]\$ \Z")
    #: The last line of what a program shows that waits, for an answer or for Ctrl-C.
    WAITING = re.compile(r"(:|CONTROL-C\.)\Z")

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        # Ctrl-C, and a password that is not shown, need a terminal; in a process of its own, since
        # a process with threads had better not fork.
        # Something that runs in the background ignores Ctrl-C, and so do all that it starts.
        script = (
            "import pty, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); "
            "pty.spawn(['bash', '--norc', '--noprofile', '--noediting'])"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=folder,
            env={**environment, "PS1": "[[$?]]$ ", "TERM": "dumb"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.printed = b""
        self.seen = 0
        self.news = threading.Condition()
        assert self.process.stdout
        self.listener = threading.Thread(target=self._listen, args=[self.process.stdout])
        self.listener.start()

    def _listen(self, stdout: IO[bytes]) -> None:
        while some := os.read(stdout.fileno(), 65536):
            with self.news:
                self.printed += some
                self.news.notify_all()

    def new(self) -> str:
        """Return what was printed since the last ``look()``, as it looks."""
        text = self.printed[self.seen :].decode(errors="replace").replace("\r\n", "\n")
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
        return re.sub(r"^.*\r(?=.)", "", text, flags=re.M)

    def wait(self, is_there: Callable[[str], Any], seconds: float = SECONDS) -> str:
        """Wait for something in what is new; return what is new, whether it is there or not."""
        with self.news:
            self.news.wait_for(lambda: is_there(self.new()), seconds)
            text, self.seen = self.new(), len(self.printed)
        return text

    def press(self, keys: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(keys.encode())
        self.process.stdin.flush()

    def run(self, command: str, shown: str) -> None:
        """Type a command, and compare what it prints."""
        self.press(f"{command}\n")
        wanted = re.escape(f"{command}\n{shown}").replace(r"\.\.\.", r"[^\n]*")
        wanted = re.sub(r"^\[\^\\n\]\*\\\n", r"(?:.*\\n)*?", wanted, flags=re.M)
        if self.WAITING.search(shown):
            text = self.wait(re.compile(wanted).search)
            is_right = re.search(wanted, text)
        else:
            text = self.wait(self.PROMPT.search, SECONDS_OF_A_COMMAND)
            status = self.PROMPT.search(text)
            if not status or status[1] != "0":
                raise Misprint(f"“{command}” has failed:\n{text}")
            end = r"\n?(?:.*\n)*" if not shown or shown.endswith("...") else r"\n+"
            is_right = re.fullmatch(wanted + end, self.PROMPT.sub("", text))
        if not is_right:
            raise Misprint(f"“{command}” does not print what is shown:\n{text}")

    def close(self) -> None:
        try:
            self.press("\x03\x03\nexit\n")
            self.process.wait(10)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            # The terminal goes away, and what runs in it gets SIGHUP.
            self.process.kill()
            self.process.wait()
        self.listener.join()
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()


class Reader:
    """Somebody with a folder, some terminals and two windows of a browser."""

    def __init__(
        self,
        stack: ExitStack,
        browser: Browser,
        folder: Path,
        environment: dict[str, str],
        pictures: Path | None = None,
    ) -> None:
        self.stack = stack
        self.browser = browser
        self.folder = folder
        self.environment = environment
        self.pictures = pictures
        self.terminals: dict[str, Terminal] = {}
        self.windows: dict[str, Page] = {}
        self.page: Any = None
        self.done: Counter[str] = Counter()

    def follow(self, part: Part) -> None:
        try:
            getattr(self, f"_{part.kind}")(part)
        except Exception as error:
            screen = self.page and f"\nThe screen at {self.page.url}:\n{self._screen()}"
            said = "".join(f"\n{name}: {one.new()}" for name, one in self.terminals.items())
            raise Misprint(
                f"{part.place}: {part.what}\n{part.text}\n{error}{screen}{said}"
            ) from error

    # Files

    @property
    def project(self) -> Path:
        return self.folder / "teashop"

    def _file(self, part: Part) -> None:
        name, _, change = part.what.partition(", ")
        file = self.project / name
        before = file.read_text(encoding="utf-8") if change else ""
        if change == "at the end":
            text = f"{before}\n{part.text}"
        elif match := re.fullmatch(r"instead of (\w+)", change):
            text = _replaced(before, match[1], part.text)
        elif change:
            raise Misprint(f"The reader does not understand: {part.what}")
        else:
            text = part.text
        file.write_text(text, encoding="utf-8")
        self.done["files"] += 1

    # Terminals

    def _terminal(self, name: str) -> Terminal:
        name = name.capitalize()
        if name not in self.terminals:
            terminal = Terminal(self.folder, self.environment)
            self.stack.callback(terminal.close)
            self.terminals[name] = terminal
            terminal.wait(Terminal.PROMPT.search)
        return self.terminals[name]

    def _console(self, part: Part) -> None:
        terminal = self._terminal(part.what)
        for match in re.finditer(r"^\$ (.+)\n?((?:(?!\$ ).*\n?)*)", part.text, re.M):
            terminal.run(match[1], match[2].rstrip("\n"))
            self.done["commands"] += 1

    def _shown(self, part: Part) -> None:
        wanted = f"{part.text}\n"
        text = self._terminal(part.what).wait(lambda new: len(new) >= len(wanted))
        if text != wanted:
            raise Misprint(f"The terminal shows:\n{text}")

    def type_at(self, text: str, prompt: str) -> None:
        terminal = self._terminal("First")
        # The block has shown the first prompt.
        if prompt not in terminal.printed.decode()[-len(prompt) - 2 :]:
            terminal.wait(lambda new: prompt in new)
        terminal.press(f"{text}\n")

    def press_ctrl_c(self, terminal: str) -> None:
        self._terminal(terminal).press("\x03")
        if not Terminal.PROMPT.search(self._terminal(terminal).wait(Terminal.PROMPT.search)):
            raise Misprint("The program goes on.")

    def see_in_terminal(self, terminal: str, text: str) -> None:
        if text not in self._terminal(terminal).wait(Terminal.PROMPT.search):
            raise Misprint("The terminal does not show it.")

    # The browser

    def _step(self, part: Part) -> None:
        method, arguments = understood(part.what)
        getattr(self, method)(**arguments)
        is_look = method.startswith("see")
        self.done["looks" if is_look else "clicks and entries"] += 1

    def _window(self, name: str) -> None:
        window = self.stack.enter_context(Window.open(self.browser))
        window.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page = self.windows[name] = window.page

    def open(self, url: str) -> None:
        if not self.windows:
            self._window("window of the Admin")
        self.page.goto(url)

    def open_copied(self) -> None:
        link = self.page.evaluate("navigator.clipboard.readText()")
        self._window("private window")
        self.page.goto(link)

    def go_back(self, window: str) -> None:
        self.page = self.windows[window]
        self.page.bring_to_front()

    def _screen(self) -> str:
        return " ".join(self.page.locator("body").inner_text().split())

    def _find(self, what: str, *names: str | None) -> Any:
        """Wait for the one element that a function finds."""
        self.page.wait_for_load_state()
        return self.page.wait_for_function(what, arg=list(names), timeout=5_000).as_element()

    def _control(self, label: str) -> Any:
        """Find a field by its label: if there are several, that of the form added last."""
        return self._find(CONTROL, label)

    def enter(self, fields: str) -> None:
        for text, label in re.findall(r"``(.+?)`` in \*(.+?)\*", fields):
            self._control(label).fill(text)

    def tick(self, label: str) -> None:
        self._set(label, True)

    def clear(self, label: str) -> None:
        self._set(label, False)

    def _set(self, label: str, value: bool) -> None:
        box = self._control(label)
        if box.is_checked() == value:
            raise Misprint("Nothing is to be done there.")
        box.set_checked(value)

    def tick_row(self, row: str) -> None:
        self.page.locator("tr", has_text=row).get_by_role("checkbox").check()

    def choose(self, option: str, label: str) -> None:
        self._control(label).select_option(label=option)

    def click(self, name: str, left: str | None, row: str | None) -> None:
        self._find(CLICKABLE, left, row, name).click()

    def click_either(self, name: str, other: str) -> None:
        self._find(CLICKABLE, None, None, name, other).click()

    def see(self, texts: str) -> None:
        for text in _quoted(texts):
            self._wait_for(SEEN, [text])

    def see_row(self, texts: str) -> None:
        self._wait_for(SEEN_IN_ROW, _quoted(texts))

    def _wait_for(self, condition: str, texts: list[str]) -> None:
        """Wait for something on the screen; reload the page once, if it has come later."""
        from playwright.sync_api import TimeoutError as Missing

        self.page.wait_for_load_state()
        try:
            self.page.wait_for_function(condition, arg=texts, timeout=3_000)
        except Missing:
            self.page.reload()
            self.page.wait_for_function(condition, arg=texts, timeout=3_000)

    def _picture(self, part: Part) -> None:
        if self.pictures:
            take_picture(self.page, self.pictures / part.what)


def _quoted(texts: str) -> list[str]:
    """Return what stands in “quotes”, which may have “quotes” inside."""
    found, depth = [""], 0
    for letter in texts:
        depth -= letter == "”"
        if depth:
            found[-1] += letter
        elif letter == "”":
            found.append("")
        depth += letter == "“"
    return found[:-1]


def _replaced(code: str, name: str, new: str) -> str:
    """Return a module with another value of one of its names."""
    lines = code.splitlines(keepends=True)
    for statement in ast.parse(code).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            lines[statement.lineno - 1 : statement.end_lineno] = [new]
            return "".join(lines)
    raise Misprint(f"{name} is not set there.")


#: The control of the last visible label of this name; some labels have their control inside.
CONTROL = """([name]) => {
    const own = (label) => [...label.childNodes]
        .filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => node.data)
        .join(" ").trim().replace(/:$/, "");
    const found = [...document.querySelectorAll("label")]
        .filter((label) => own(label) === name && label.checkVisibility());
    return found.length ? found.at(-1).control : null;
}"""

#: The only link or button of one of these names, in the sidebar, in a row, or in the page itself.
#: Below the name may be more, as in the lists of the Admin.
CLICKABLE = """([left, row, ...names]) => {
    const boxes = left ? [document.querySelector("#nav-sidebar")]
        : row ? [...document.querySelectorAll("tr, form")]
            .filter((box) => box.innerText.includes(row))
        : [document.querySelector("#content") ?? document.body];
    const found = boxes.flatMap((box) =>
            [...box.querySelectorAll("a, button, summary, input[type=submit]")])
        .filter((one) => [one.value, one.textContent, one.innerText.split("\\n")[0]]
            .some((text) => names.includes(text?.trim())))
        .filter((one) => one.checkVisibility());
    return found.length === 1 && found[0];
}"""

#: Headings may be in capitals.
_SHOWS = """const shows = (box, text) => {
    const screen = box.innerText.replace(/\\s+/g, " ");
    return screen.includes(text) || screen.includes(text.toUpperCase());
};"""
SEEN = f"""(texts) => {{
    {_SHOWS}
    return texts.every((text) => shows(document.body, text));
}}"""
SEEN_IN_ROW = f"""(texts) => {{
    {_SHOWS}
    return [...document.querySelectorAll("tr")]
        .some((row) => texts.every((text) => shows(row, text)));
}}"""


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout, without writing into it."""
    source = folder / "source"
    shutil.copytree(
        ROOT / "affiliations",
        source / "affiliations",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for name in ("pyproject.toml", "README.rst", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, source]
    subprocess.run([str(part) for part in command], check=True)
    [wheel] = folder.glob("*.whl")
    return wheel


def free_ports() -> list[str]:
    """Return as many ports as the pages use."""
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in PORTS]
        return [str(server.getsockname()[1]) for server in servers]


def newcomers_environment(folder: Path, package: Path) -> dict[str, str]:
    """Return the environment of a shell in which pip finds this package, and Python is new."""
    constraints = folder / "constraints.txt"
    constraints.write_text(f"django-affiliate-tracking @ {package.resolve().as_uri()}\n")
    programs = folder / "programs"
    programs.mkdir()
    python = programs / "python3"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    ours = re.compile(r"AFFILIATIONS_|COV|DJANGO_|PYTEST|PYTHON|TOX|VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not ours.match(name)} | {
        "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "VIRTUAL_ENV_DISABLE_PROMPT": "1",
        "PIP_CONSTRAINT": f"{constraints} {os.environ.get('PIP_CONSTRAINT', '')}".strip(),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


@contextmanager
def reading(
    folder: Path, browser: Browser, package: Path | None = None, pictures: Path | None = None
) -> Iterator[Reader]:
    """Let somebody sit down in an empty folder, and install this wheel or sdist, or a new wheel."""
    empty = folder / "empty"
    empty.mkdir()
    environment = newcomers_environment(folder, package or build_wheel(folder))
    with ExitStack() as stack:
        yield Reader(stack, browser, empty, environment, pictures)


def everything(ports: Sequence[str]) -> list[Part]:
    """Return the parts of all pages, with these ports instead of theirs."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for shown, port in zip(PORTS, ports, strict=True):
            text = text.replace(shown, port)
        found += parts(text, f"{page.parent.name}/{page.name}")
    return found


def stopwatch() -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        chromium() as browser,
        reading(Path(name), browser) as reader,
    ):
        start = time.monotonic()
        for part in everything(free_ports()):
            reader.follow(part)
            if part.kind == "shown":
                seconds = time.monotonic() - start
                did = ", ".join(f"{count} {what}" for what, count in reader.done.items())
                print(f"{part.place}: after {seconds:.1f} s, {did}:\n{part.text}")  # noqa: T201


if __name__ == "__main__":
    stopwatch()
