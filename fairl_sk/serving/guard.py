"""`Guard`: reads whole requests, and refuses those that are too large, too slow or without the token."""

import asyncio
import hmac
import json
import time

__all__ = ["Guard"]

OPEN = ("/health",)  # for probes, which have no token


class Guard:
    """ASGI middleware.

    Parameters
    ----------
    app : ASGI app
    token : str or None
        What ``Authorization: Bearer`` has to say.
    max_body : int
        The most bytes of a body.
    body_timeout : float
        Seconds in which a body has to arrive.
    observe : callable
        Told ``(path, status, seconds)`` of each request.
    """

    def __init__(self, app, *, token, max_body, body_timeout, observe):
        self.app, self.token, self.max_body, self.body_timeout = app, token, max_body, body_timeout
        self.observe = observe

    async def __call__(self, scope, receive, send):
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, answered = time.perf_counter(), []

        async def watched(message):
            if message["type"] == "http.response.start":
                answered.append(message["status"])
            await send(message)

        try:
            refusal = self._refusal(scope)
            body = b""
            if refusal is None:
                body, refusal = await self._read(receive)
            if refusal is not None:
                return await _refuse(watched, *refusal)
            return await self.app(scope, _replay(body, receive), watched)
        finally:
            self.observe(scope["path"], answered[0] if answered else 0, time.perf_counter() - started)

    def _refusal(self, scope):
        """Status and message if the headers are enough to refuse the request."""
        headers = dict(scope["headers"])
        if self.token is not None and scope["path"] not in OPEN:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
                return 401, "Found no token, or a wrong one. Send the header 'Authorization: Bearer TOKEN'."
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.max_body:
            return self._too_large(f"{int(length)} bytes")
        return None

    def _too_large(self, found):
        return 413, f"Found a body of {found}. Expected at most {self.max_body} bytes: send several requests."

    async def _read(self, receive):
        """The whole body, or a refusal."""
        parts, n_bytes = [], 0
        try:
            async with asyncio.timeout(self.body_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return b"", (400, "The request ended before its body did.")
                    parts.append(message.get("body", b""))
                    n_bytes += len(parts[-1])
                    if n_bytes > self.max_body:
                        return b"", self._too_large(f"more than {self.max_body} bytes")
                    if not message.get("more_body", False):
                        return b"".join(parts), None
        except TimeoutError:
            return b"", (408, f"The body did not arrive within {self.body_timeout:g} seconds.")


def _replay(body, receive):
    """A ``receive`` that gives the body that was read, then what else comes."""
    given = []

    async def again():
        if given:
            return await receive()
        given.append(True)
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(send, status, detail):
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))  # what else is sent is not read
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
