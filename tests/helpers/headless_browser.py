"""A real browser without a window: Chromium, spoken to over a pipe (the DevTools protocol), so it needs no package."""

from __future__ import annotations

import base64
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LIMIT = 60.0
"""Seconds for anything that is waited for."""

# Chromium reads commands from descriptor 3 and writes to 4, whatever numbers the pipes have here.
_START = """
import fcntl, os, sys
numbers = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 64) for number in sys.argv[1:3]]
for descriptor, number in zip((3, 4), numbers):
    os.dup2(number, descriptor)
os.execvp(sys.argv[3], sys.argv[3:])
"""

_READY_OR_REFUSED = "document.body && ['ready', 'refused'].includes(document.body.dataset.state)"


def program() -> str:
    """Chromium's path; without one the test is skipped, or fails where CI=true."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is not None:
        return found
    sentence = "no Chromium here (Debian: apt install chromium): pages are not tried in a browser"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(sentence)
    pytest.skip(sentence)


class Browser:
    """A running Chromium without a network."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._unread = b""
        self._last = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the protocol."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._last:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _message(self) -> dict[str, Any]:
        deadline = time.monotonic() + LIMIT
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"Chromium did not answer within {LIMIT:g} s"
            piece = os.read(self._answers, 1 << 20)
            assert piece, "Chromium has ended"
            self._unread += piece
        raw, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        return message

    def open(self, path: pathlib.Path, width: int = 1280, height: int = 900, ready: str = _READY_OR_REFUSED) -> Tab:
        """Opens a file in a new tab and waits until a JavaScript expression is true: as given, for a bundle's page."""
        tab = Tab(self, self.call("Target.createTarget", url="about:blank")["targetId"])
        tab.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        tab.call("Emulation.setScrollbarsHidden", hidden=True)
        tab.call("Page.navigate", url=path.resolve().as_uri())
        tab.wait(ready)
        return tab


class Tab:
    """One page."""

    def __init__(self, browser: Browser, target: str) -> None:
        self._browser, self._target = browser, target
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the protocol, in this page."""
        return self._browser.call(method, self._session, **parameters)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until the expression is true."""
        deadline = time.monotonic() + LIMIT
        while not self.run(f"Boolean({expression})"):
            assert time.monotonic() < deadline, f"{expression} within {LIMIT:g} s; {self.events('Log.entryAdded')}"
            time.sleep(0.02)

    def press(self, selector: str, key: str, times: int = 1) -> None:
        """Presses a key in the element."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=_KEYS[key])

    def type(self, selector: str, text: str) -> None:
        """Replaces the content of a field, as typing does."""
        self.run(f"(() => {{ const field = document.querySelector({json.dumps(selector)}); field.focus(); }})()")
        self.run("document.activeElement.select()")
        self.call("Input.insertText", text=text)

    def events(self, method: str) -> list[dict[str, Any]]:
        """What the page's events of one kind said so far."""
        return [
            event["params"]
            for event in self._browser.events
            if event.get("sessionId") == self._session and event["method"] == method
        ]

    def screenshot(self, path: pathlib.Path) -> None:
        """The whole page as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        """Closes the tab."""
        self._browser.call("Target.closeTarget", targetId=self._target)


_KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35}


@contextmanager
def running(profile: pathlib.Path, options: Sequence[str] = ()) -> Iterator[Browser]:
    """A Chromium with a profile of its own; its processes have ended when the block has."""
    command = [program(), "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}", *options]
    command += ["--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"]
    # Chromium refuses its sandbox to root, which is who runs tests in containers.
    command += ["--no-sandbox"] if os.geteuid() == 0 else []
    commands_out, commands_in = os.pipe()
    answers_out, answers_in = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _START, str(commands_out), str(answers_in), *command],
        pass_fds=(commands_out, answers_in),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(commands_out)
    os.close(answers_in)
    try:
        yield Browser(commands_in, answers_out)
    finally:
        # Chromium ends when the pipe does.
        os.close(commands_in)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        os.close(answers_out)
