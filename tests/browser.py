"""A headless Chromium, driven over a pipe by its own DevTools protocol: nothing to install."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PLACES = ("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",)
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--remote-debugging-pipe",
)
SECONDS = 120.0


def find_chromium() -> str | None:
    """Return the program of a Chromium: that of $DETKIT_CHROMIUM, else what is installed."""
    if sys.platform == "win32":  # there a process inherits no pipes by number
        return None
    wanted = os.environ.get("DETKIT_CHROMIUM")
    found = [wanted] if wanted else [shutil.which(name) for name in NAMES] + list(PLACES)
    return next((one for one in found if one and Path(one).exists()), None)


class Page:
    """One page of a browser, and what went wrong on it."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._numbers = itertools.count(1)
        self._buffer = b""
        self._session: str | None = None
        self._target = ""
        self.errors: list[str] = []  # exceptions, console errors, refused and failed requests
        self.requests: list[str] = []
        self._events: list[str] = []
        self._held = False  # the mouse's button
        self.new_tab()

    def new_tab(self) -> str:
        """Go to a new empty tab; return what `go_to_tab` takes to come back to this one."""
        before, self._session = self._target, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.go_to_tab(target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return before

    def go_to_tab(self, target: str) -> None:
        """Bring another tab to the front and drive it from now on."""
        self._session = None
        answer = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._target, self._session = target, answer["sessionId"]
        self.call("Page.bringToFront")

    def close_tab(self, back_to: str) -> None:
        """Close this tab and go to another."""
        target, self._session = self._target, None
        self.call("Target.closeTarget", targetId=target)
        self.go_to_tab(back_to)

    def call(self, method: str, **parameters: Any) -> Any:
        """Return the browser's answer to a command."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def open(self, page: Path | str) -> None:
        """Load a file or an address and wait until it is there."""
        self._events.clear()
        self.call("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        while "Page.loadEventFired" not in self._events:
            self._note(self._read())

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def wait_for(self, script: str, seconds: float = 20.0) -> Any:
        """Return an expression's value once it is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > end:
                raise TimeoutError(f"still {value!r} after {seconds:g} s: {script}")
            time.sleep(0.02)
        return value

    def mouse(
        self,
        kind: str,
        x: float,
        y: float,
        *,
        button: str = "left",
        keys: int = 0,
        wheel: float = 0,
    ) -> None:
        """Do one thing with the mouse: "Moved", "Pressed", "Released" or "Wheel"."""
        held = kind == "Pressed" or (kind == "Moved" and self._held)
        self._held = kind == "Pressed" or (self._held and kind != "Released")
        options: dict[str, Any] = {"modifiers": keys, "x": x, "y": y}
        if kind == "Wheel":
            options |= {"deltaX": 0, "deltaY": wheel}
        else:
            options |= {"button": button if kind != "Moved" or held else "none", "clickCount": 1}
            options["buttons"] = {"left": 1, "middle": 4}[button] if held else 0
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", **options)

    def drag(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        *,
        button: str = "left",
        keys: int = 0,
    ) -> None:
        """Press at a point, move in steps to another, and let go there."""
        self.mouse("Moved", *start, keys=keys)
        self.mouse("Pressed", *start, button=button, keys=keys)
        for step in (0.3, 0.7, 1.0):
            at = [a + (b - a) * step for a, b in zip(start, end)]
            self.mouse("Moved", *at, button=button, keys=keys)
        self.mouse("Released", *end, button=button, keys=keys)

    def click(self, x: float, y: float, *, keys: int = 0) -> None:
        """Move to a point and click there."""
        self.mouse("Moved", x, y, keys=keys)
        self.mouse("Pressed", x, y, keys=keys)
        self.mouse("Released", x, y, keys=keys)

    def touch(self, kind: str, *points: tuple[float, float]) -> None:
        """Have fingers on these points: "Start", "Move", "End" or "Cancel"."""
        fingers = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        self.call("Input.dispatchTouchEvent", type=f"touch{kind}", touchPoints=fingers)

    def type(self, text: str) -> None:
        """Write into what has the focus."""
        self.call("Input.insertText", text=text)

    def key(self, name: str) -> None:
        """Press a key by its name with what is held: "d", "Shift+Tab", "Alt+ArrowLeft"."""
        *held, key = name.split("+") if name != "+" else ["+"]
        keys = sum({"Alt": 1, "Ctrl": 2, "Shift": 8}[one] for one in held)
        place = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9}
        place |= {"Enter": 13, "Escape": 27, "Delete": 46, " ": 32, "PageDown": 34, "End": 35}
        letter = len(key) == 1 and key.isalpha()
        number = place.get(key) or (ord(key.upper()) if key.isalnum() else 0)
        code = f"Key{key.upper()}" if letter else f"Digit{key}" if key.isdigit() else key
        text = "\r" if key == "Enter" else key if len(key) == 1 and not keys & 3 else ""
        common = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": keys}
        kind = "keyDown" if text else "rawKeyDown"
        self.call("Input.dispatchKeyEvent", type=kind, text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key and let it go, as a hand does."""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        kind = "keyDown" if text else "rawKeyDown"
        self.call("Input.dispatchKeyEvent", type=kind, text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Give the window a size and the system its colours."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, *, whole: bool = False) -> bytes:
        """Return the window, or the whole page, as PNG."""
        options = {"captureBeyondViewport": True} if whole else {}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = {**size, "x": 0, "y": 0, "scale": 1}  # type: ignore[assignment]
        return base64.b64decode(
            self.call("Page.captureScreenshot", format="png", **options)["data"]
        )

    def _read(self) -> Any:
        """Return the browser's next message."""
        end = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            if not select.select([self._receive], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError("the browser says nothing")
            part = os.read(self._receive, 1 << 20)
            if not part:
                raise RuntimeError("the browser has ended")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, message: dict[str, Any]) -> None:
        """Keep what an event tells of errors and of the network."""
        method, values = message.get("method", ""), message.get("params", {})
        self._events.append(method)
        if method == "Runtime.exceptionThrown":
            details = values["exceptionDetails"]
            self.errors.append(details.get("exception", details).get("description", str(details)))
        elif method == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning"):
            self.errors.append(str(values["args"]))
        elif method == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            self.errors.append(values["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])


@contextlib.contextmanager
def open_page(program: str) -> Iterator[Page]:
    """Yield an empty page of a browser of its own."""
    to_browser, from_browser = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:

        def as_three_and_four() -> None:
            read, write = os.dup(to_browser[0]), os.dup(from_browser[1])
            os.dup2(read, 3)
            os.dup2(write, 4)

        browser = subprocess.Popen(
            [program, *OPTIONS, f"--user-data-dir={profile}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=as_three_and_four,
            close_fds=False,
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        try:
            yield Page(to_browser[1], from_browser[0])
        finally:
            os.close(to_browser[1])
            os.close(from_browser[0])
            browser.terminate()
            try:
                browser.wait(10)
            except subprocess.TimeoutExpired:
                browser.kill()
                browser.wait()
