"""Asking a control plane from the command line: one blocking request, and two ways for it to go wrong."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

TIMEOUT = 10.0
"""Seconds; every answer comes from memory."""
MAX_ANSWER = 256 * 1024 * 1024


class UnreachableError(Exception):
    """Nobody answered, or not in our protocol."""


class RefusedError(Exception):
    """The control plane said no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Inquiry:
    """Where to ask, and with which key."""

    def __init__(self, control: str, admin_key: str = "") -> None:
        self._base = (control if "://" in control else f"http://{control}").rstrip("/")
        self._key = admin_key

    def ask(self, method: str, path: str, body: object = None, query: Mapping[str, str] | None = None) -> Any:
        """The JSON answer. Raises UnreachableError or RefusedError."""
        if urlsplit(self._base).scheme not in ("http", "https"):
            raise UnreachableError(f"{self._base}: not an http URL")
        url = self._base + quote(path, safe="/:@+=~,;") + (f"?{urlencode(query)}" if query else "")
        headers = {"content-type": "application/json"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 (http or https)
            with _opener().open(request, timeout=TIMEOUT) as answer:
                return json.loads(answer.read(MAX_ANSWER))
        except urllib.error.HTTPError as error:
            with error:
                raise RefusedError(error.code, _message(error.read(65536), error.code)) from None
        except urllib.error.URLError as error:
            cause = error.reason
            reason = "connection refused" if isinstance(cause, ConnectionRefusedError) else str(cause)
            raise UnreachableError(f"no gateway answers at {self._base}: {reason}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UnreachableError(f"no gateway answers at {self._base}: {error}") from None

    @staticmethod
    def text(answer: object) -> str:
        """JSON as programs like it."""
        return json.dumps(answer)


def _opener() -> urllib.request.OpenerDirector:
    """Without proxies of the environment and without redirects: an operator's key goes where it was sent."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _message(raw: bytes, status: int) -> str:
    try:
        error = json.loads(raw)["error"]
        return f"{error['message']} ({error['param']})" if error["param"] else str(error["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {status}"
