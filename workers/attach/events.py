"""Server-sent events cut at their ends, as bytes: what is inside is never touched."""

from __future__ import annotations

import re
from collections.abc import Iterator

END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
DONE = re.compile(rb"data: ?\[DONE\]")
"""How OpenAI's streams say that they are over."""
MAX_EVENT = 1 << 20
"""Bytes without an end, after which they go on as they are: then it is no stream of events."""


class Events:
    """Bytes in, whole events out, each with the empty line that ends it."""

    def __init__(self) -> None:
        self.rest = b""
        """What has not ended yet."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        self.rest += chunk
        while found := END.search(self.rest):
            event, self.rest = self.rest[: found.end()], self.rest[found.end() :]
            yield event
        if len(self.rest) > MAX_EVENT:
            event, self.rest = self.rest, b""
            yield event
