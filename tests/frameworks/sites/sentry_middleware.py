"""Sentry's middleware around small pages. What it would send is kept and told at `/events`: nothing leaves the process.

Knows: Sentry's SDK.   Must not know: the server.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware
from sentry_sdk.transport import Transport

from apps import TEXT, Environ
from frameworks.sites.middleware import pages

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

EVENTS: list[dict[str, Any]] = []


class Collector(Transport):
    def capture_envelope(self, envelope: Envelope) -> None:
        EVENTS.extend(item.payload.json for item in envelope.items if item.payload.json)


def summary(event: dict[str, Any]) -> dict[str, Any]:
    """What the tests look at of an event."""
    return {
        "type": event.get("type", "event"),
        "url": event["request"]["url"].split("/", 3)[3],
        "query": event["request"]["query_string"],
        "status": event["contexts"]["trace"].get("status"),
        "failure": [failure["value"] for failure in event.get("exception", {}).get("values", [])],
    }


def events(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    answer = json.dumps([summary(event) for event in EVENTS]).encode()
    EVENTS.clear()
    start_response("200 OK", [TEXT, ("Content-Length", str(len(answer)))])
    return [answer]


sentry_sdk.init("http://key@127.0.0.1/1", transport=Collector, traces_sample_rate=1.0, default_integrations=False)
watched = SentryWsgiMiddleware(pages)


def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Sentry does not see who asks for its events."""
    handler = events if environ["PATH_INFO"] == "/events" else watched
    return handler(environ, start_response)
