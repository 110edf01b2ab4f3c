"""The server of `detkit label`: what the page asks for, on this machine alone.

The address is `http://127.0.0.1:PORT/TOKEN/`; what follows is relative to it. Without the token
there is nothing but 404. All but the page and pictures is JSON, errors are `{"error": line}`.
Boxes are `[x1, y1, x2, y2]` in pixels of the upright image, 0-based and half-open: the whole image
is `[0, 0, width, height]`. N is an image's number, from 1.

    GET  ""                    the page; its files are "page/NAME"
    GET  "state"               {"photos", "out", "format", "classes": [names], "images": how many,
                               "done": how many, "model": null | {"name", "generation", "map"},
                               "proposals": bool, "threshold", "training": null | {"status":
                               "running|failed|done", "message", "at": number labelled},
                               "changes": grows with every change, "ranked": how often the
                               order was made anew, "editor": null | who holds the
                               folder, "zoom_tiles": side of a tile, "trouble": "" | why files of
                               the folder are behind the journal}
    GET  "images"              {"images": [[number, name, width|null, height|null,
                               "todo|done|empty|skipped", objects, findings], ...],
                               "order": [numbers, the next to label first], "reason"?: {N: text}}
    GET  "images/N"            {"number", "name", "split", "width", "height", "revision", "state",
                               "objects": [{"label", "box", "difficult", "machine_made", "score"?,
                               "crowd"?}], "findings": [{"severity", "code", "message",
                               "object": its place from 1 | null}]}
    PUT  "images/N"            {"editor", "revision", "state", "objects"} -> {"revision"} once it is
                               on disk; 400 for labels that make no sense, 409 {"error", "now"}
                               where the revision is not the present one, 423 where another page
                               holds the folder, 507 where the disk is full
    GET  "images/N/drafts"     {"status": "ready|waiting|none|failed", "generation", "detections":
                               [{"label", "score", "box"}], "error"?}
    GET  "images/N/proposals"  {"status", "boxes": [box, ...], "error"?}, best first
    GET  "images/N/preview?side=S"            JPEG, its longer side S of 256, 1024 or 2048, or that
                               of a smaller image; 422 for an image that cannot be read
    GET  "images/N/tile?level=L&x=X&y=Y"      JPEG, column X and row Y of the tiles of the image
                               at 2^-L of its size, (ceil(width / 2^L), ceil(height / 2^L)) pixels;
                               those at the right and at the bottom are smaller
    POST "editor"              {"editor": id | null, "take": bool} -> {"editor", "may_write",
                               "since": seconds for which its holder was silent}
    POST "classes"             {"editor", "name"} -> {"classes"}
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
import sys
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

from detkit import __version__
from detkit.errors import DetkitError
from detkit.labelling.desk import Desk
from detkit.labelling.previews import SIDES
from detkit.labelling.session import Refused

logger = logging.getLogger(__name__)

MAX_BODY = 8 << 20  # bytes; 10,000 objects are some 2 MB
HOSTS = ("127.0.0.1", "localhost")
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_IMAGE = re.compile(r"images/([1-9]\d{0,8})(?:/(drafts|proposals|preview|tile))?")
_POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class LabelServer(ThreadingHTTPServer):
    """Answers pages at a token's address on 127.0.0.1, a thread a connection."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, desk: Desk, port: int = 0) -> None:
        """Listen on `port`, 0 for any that is free; DetkitError where another program has it."""
        self.desk = desk
        self.token = secrets.token_urlsafe(18)
        folder = files("detkit.labelling").joinpath("page")
        self.page = {
            one.name: one.read_bytes()
            for one in folder.iterdir()
            if one.name[one.name.rfind(".") :] in TYPES
        }
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise DetkitError(f"--port {port}: {reason}; choose another, or 0") from error
        self.hosts = {f"{host}:{self.server_port}" for host in HOSTS}

    @property
    def address(self) -> str:
        """The address of the page."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over a page that went away in the middle of an answer; log anything else."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            logger.warning("unexpected %s: %s", type(error).__name__, error)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: LabelServer
    protocol_version = "HTTP/1.1"
    server_version = f"detkit/{__version__}"
    sys_version = ""
    timeout = 60  # seconds that a connection may be silent
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer a GET."""
        self._serve("GET")

    def do_PUT(self) -> None:
        """Answer a PUT."""
        self._serve("PUT")

    def do_POST(self) -> None:
        """Answer a POST."""
        self._serve("POST")

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: stderr is for people."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what `http.server` itself refuses as all else is: JSON, with the headers."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            code, message = HTTPStatus.METHOD_NOT_ALLOWED, "only GET, PUT and POST are answered"
        self.close_connection = True
        self._fail(code, message or HTTPStatus(code).phrase)

    def _serve(self, method: str) -> None:
        """Answer one request, whatever it is."""
        self._body_read = False
        try:
            self._answer(method)
        except Refused as refused:
            self._fail(refused.status, str(refused), refused.values)
        except DetkitError as error:
            self._fail(422, str(error))
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:  # a defect: the page says so and goes on
            logger.warning("unexpected %s: %s", type(error).__name__, error)
            self._fail(500, f"unexpected {type(error).__name__}: {error}; please report it")

    def _answer(self, method: str) -> None:
        """Answer one request that is ours."""
        if self.headers.get("Host", "").lower() not in self.server.hosts:
            raise Refused(403, "not an address of this server")
        origin = self.headers.get("Origin")
        if origin is not None and origin.removeprefix("http://") not in self.server.hosts:
            raise Refused(403, "a request of another page")
        path, _, query = self.path.partition("?")
        token, slash, rest = path.removeprefix("/").partition("/")
        own = self.server.token
        is_ours = hmac.compare_digest(token.encode("utf-8", "replace"), own.encode())
        if not path.startswith("/") or not slash or not is_ours:
            raise Refused(404, "nothing is here; open the address that detkit label printed")
        if method == "GET":
            self._get(rest, query)
        else:
            self._change(method, rest)

    def _get(self, path: str, query: str) -> None:
        """Answer a GET of an address relative to the token."""
        desk = self.server.desk
        if path in ("", "label.html") or path.startswith("page/"):
            self._send_page(path.removeprefix("page/") or "label.html")
        elif path == "state":
            self._send_json(desk.state())
        elif path == "images":
            self._send_json(desk.images())
        elif path in ("editor", "classes"):
            raise Refused(405, f"{path} takes POST", allow="POST")
        else:
            number, part = self._image(path)
            if part is None:
                self._send_json(desk.session.record(number))
            elif part == "drafts":
                self._send_json(desk.drafts(number))
            elif part == "proposals":
                self._send_json(desk.proposals(number))
            elif part == "preview":
                side = _number(query, "side")
                if side not in SIDES:
                    raise Refused(400, f"side: expected one of {', '.join(map(str, SIDES))}")
                self._send_picture(desk.preview(number, side))
            else:
                level, x, y = (_number(query, name) for name in ("level", "x", "y"))
                self._send_picture(desk.tile(number, level, x, y))

    def _change(self, method: str, path: str) -> None:
        """Answer a PUT or POST of an address relative to the token."""
        session = self.server.desk.session
        if method == "POST" and path == "editor":
            body = self._body()
            editor, take = body.get("editor"), body.get("take", False)
            if not (editor is None or (isinstance(editor, str) and 0 < len(editor) <= 64)):
                raise Refused(400, "editor: expected a text of at most 64 signs, or null")
            if not isinstance(take, bool):
                raise Refused(400, "take: expected true or false")
            with session.lock:
                name, may_write, since = session.editors.greet(editor, take=take)
            answer = {"editor": name, "may_write": may_write, "since": round(since, 1)}
            self._send_json(answer)
        elif method == "POST" and path == "classes":
            body = self._body()
            names = session.add_class(body.get("editor"), body.get("name"))
            self._send_json({"classes": names})
        elif path in ("", "state", "images", "editor", "classes") or path.startswith("page/"):
            allow = "POST" if path in ("editor", "classes") else "GET"
            raise Refused(405, f"this address takes {allow}", allow=allow)
        else:
            number, part = self._image(path)
            if method != "PUT" or part is not None:
                allow = "GET, PUT" if part is None else "GET"
                raise Refused(405, f"this address takes {allow}", allow=allow)
            self._send_json({"revision": session.put(number, self._body())})

    def _image(self, path: str) -> tuple[int, str | None]:
        """Return the image's number and the part of it that an address names; Refused: none."""
        match = _IMAGE.fullmatch(path)
        if match is None:
            raise Refused(404, "there is no such address")
        number = int(match[1])
        if not self.server.desk.session.has(number):
            raise Refused(404, f"there is no image {number}")
        return number, match[2]

    def _body(self) -> Mapping[str, Any]:
        """Return the JSON object of a request; Refused for anything else."""
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "expected Content-Type: application/json")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise Refused(411, "expected Content-Length")
        if len(length) > 12 or int(length) > MAX_BODY:
            raise Refused(413, f"more than {MAX_BODY >> 20} MiB are not taken")
        content = self.rfile.read(int(length))
        self._body_read = True
        if len(content) < int(length):
            raise Refused(400, "the request broke off")
        try:
            body = json.loads(content.decode())
        except (ValueError, RecursionError) as error:
            raise Refused(400, "the body is no JSON") from error
        if not isinstance(body, dict):
            raise Refused(400, "expected a JSON object")
        return body

    def _send_page(self, name: str) -> None:
        """Send a file of the page; Refused where there is none of this name."""
        content = self.server.page.get(name)
        if content is None:
            raise Refused(404, "there is no such file")
        self._send(200, content, TYPES[name[name.rfind(".") :]], "no-cache")

    def _send_picture(self, content: bytes) -> None:
        """Send a JPEG; the page may keep it for an hour."""
        self._send(200, content, "image/jpeg", "private, max-age=3600")

    def _send_json(self, values: Any) -> None:
        """Send JSON, never kept."""
        self._send(200, _json(values), "application/json", "no-store")

    def _fail(self, status: int, message: str, values: Mapping[str, Any] | None = None) -> None:
        """Send an error."""
        more = dict(values or {"error": message})
        allow = more.pop("allow", "GET, PUT, POST" if status == 405 else None)
        # A body that nobody has read would be taken for the next request.
        if self.command != "GET" and not getattr(self, "_body_read", False):
            self.close_connection = True
        self._send(status, _json(more), "application/json", "no-store", allow)

    def _send(
        self, status: int, content: bytes, kind: str, cache: str, allow: str | None = None
    ) -> None:
        """Send an answer with the headers that all have."""
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": cache,
            "Content-Security-Policy": _POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        if allow is not None:
            headers["Allow"] = allow
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _json(values: Any) -> bytes:
    return json.dumps(values, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def _number(query: str, name: str) -> int:
    """Return a whole number of a query, from 0; Refused where there is none."""
    try:
        found = parse_qs(query, max_num_fields=8).get(name, [])
    except ValueError:
        found = []
    if len(found) != 1 or not re.fullmatch(r"\d{1,9}", found[0], re.ASCII):
        raise Refused(400, f"{name}: expected a whole number")
    return int(found[0])


def serving(server: LabelServer) -> threading.Thread:
    """Return the thread that answers pages, begun; `server.shutdown` ends it."""
    thread = threading.Thread(
        target=server.serve_forever, args=(0.2,), name="detkit-label-http", daemon=True
    )
    thread.start()
    return thread
