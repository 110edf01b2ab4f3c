"""A session of `detkit label` in this process, and one's requests, for tests."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detkit.labelling.desk import Desk
from detkit.labelling.ordering import LabelOrder
from detkit.labelling.photos import open_photos
from detkit.labelling.server import LabelServer, serving
from detkit.labelling.session import Session


def save(path: Path, height: int = 40, width: int = 60, seed: int = 0) -> Path:
    """Write an image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return path


class Client:
    """Asks a server, with its token unless another path is given."""

    def __init__(self, address: str) -> None:
        self.address = address
        host, _, token = address.removeprefix("http://").partition("/")
        self.host, self.token = host, f"/{token}"
        self.editor = "me"

    def raw(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body of a request to a whole path."""
        connection = http.client.HTTPConnection(self.host, timeout=30)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read()
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return status and JSON of a request below the token."""
        content = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        status, _, answer = self.raw(method, self.token + path, content, headers)
        return status, json.loads(answer)

    def get(self, path: str) -> Any:
        """Return the JSON of an address that answers 200."""
        status, answer = self.ask("GET", path)
        assert status == 200, answer
        return answer

    def put(self, number: int, *rows: Any, state: str = "", revision: int | None = None) -> Any:
        """Return status and answer of labels for an image; a row is (class, box) or a whole one."""
        objects = [
            {"label": row[0], "box": row[1]} if isinstance(row, tuple) else row for row in rows
        ]
        if revision is None:
            revision = self.get(f"images/{number}")["revision"]
        state = state or ("done" if objects else "empty")
        body = {"editor": self.editor, "revision": revision, "state": state, "objects": objects}
        return self.ask("PUT", f"images/{number}", body)


def until(holds: Callable[[], Any], seconds: float = 20) -> Any:
    """Return what comes out true in the end."""
    end = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < end:
        time.sleep(0.02)
    assert found
    return found


class ByName(LabelOrder):
    """An order that stays by name, whatever the images show."""

    def _work(self) -> None:
        """Look at nothing."""


@contextmanager
def labelling(photos: Path, out: Path, **options: Any) -> Iterator[Client]:
    """Yield a client of a server that labels `photos`."""
    session = Session(open_photos(photos), out, **options)
    desk = Desk(session, ByName(session))
    server = LabelServer(desk)
    serving(server)
    try:
        yield Client(server.address)
    finally:
        server.shutdown()
        server.server_close()
        desk.close()
