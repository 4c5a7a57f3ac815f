"""A network in memory between a publisher and the application of a server, on which a test lets things go wrong."""

from urllib.parse import urlsplit

import requests
import responses

from patchify.publishing.upload import Piece


class Wire:
    """Everything that is asked goes to an application; ``faults`` are what happens instead, one for each request.

    A fault is None, "refused" (nothing arrives), "unanswered" (all arrives, the answer is lost), a number (only so many
    bytes of the body arrive), or what `responses` takes as an answer: status, headers, body.
    """

    def __init__(self, app):
        self._client = app.test_client()
        self.faults = []
        self.asked = []  # method, path, and length of the body
        self.headers = []

    def __call__(self, request):
        body = b"".join(request.body) if isinstance(request.body, Piece) else request.body or b""
        path = urlsplit(request.url).path
        self.asked.append((request.method, path.removeprefix("/api/"), len(body)))
        self.headers.append(dict(request.headers))
        fault = self.faults.pop(0) if self.faults else None
        if fault == "refused":
            raise requests.ConnectionError("refused")
        if isinstance(fault, tuple):
            return fault
        length = str(len(body))
        answer = self._client.open(
            path,
            base_url="https://updates.test",
            method=request.method,
            headers={name: value for name, value in request.headers.items() if name != "Content-Length"},
            environ_overrides={"wsgi.input": _Input(body if not isinstance(fault, int) else body[:fault])},
            content_length=length,
        )
        if fault is not None:
            raise requests.ConnectionError("lost")
        return answer.status_code, list(answer.headers.items()), answer.data

    def connect(self):
        """Return a context in which every request goes this way."""
        mock = responses.RequestsMock(assert_all_requests_are_fired=False)
        for method in ("GET", "POST"):
            mock.add_callback(method, responses.matchers.re.compile("https://updates.test/.*"), self, content_type=None)
        return mock


class _Input:
    def __init__(self, data):
        self._data = data

    def read(self, size=-1):
        end = len(self._data) if size < 0 else size
        found, self._data = self._data[:end], self._data[end:]
        return found
