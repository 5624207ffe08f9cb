"""A Django site in one file: a validated form, an upload, a stream, a redirect; no database."""

# Django has no types of its own.
# mypy: disable-error-code="import-untyped,misc"

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from typing import Any

import django
from django import forms
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    DEBUG=False,
    LOGGING_CONFIG=None,
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for tests",
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
    ],
)
django.setup()
logging.getLogger("django").addHandler(logging.NullHandler())  # "Not Found" is an answer here, not news


class Person(forms.Form):
    name = forms.CharField(max_length=20)
    age = forms.IntegerField(min_value=0)


def person(request: HttpRequest) -> HttpResponse:
    form = Person(request.POST)
    if not form.is_valid():
        return JsonResponse({"errors": form.errors}, status=422)
    return JsonResponse(form.cleaned_data)


def upload(request: HttpRequest) -> HttpResponse:
    content = request.FILES["file"]
    digest = hashlib.sha256()
    for chunk in content.chunks():
        digest.update(chunk)
    answer: dict[str, Any] = {"name": content.name, "size": content.size, "sha256": digest.hexdigest()}
    return JsonResponse(answer | {"form": request.POST.dict()})


def count(request: HttpRequest) -> HttpResponse:
    request.session["count"] = request.session.get("count", 0) + 1
    return JsonResponse({"count": request.session["count"]})


def stream(request: HttpRequest, blocks: int) -> StreamingHttpResponse:
    def generate() -> Iterator[str]:
        for number in range(blocks):
            yield f"{number} {request.GET['word']}\n"

    return StreamingHttpResponse(generate(), content_type="text/plain")


def where(request: HttpRequest, rest: str) -> HttpResponse:
    return JsonResponse({"rest": rest, "url": request.build_absolute_uri(), "remote": request.META["REMOTE_ADDR"]})


def away(request: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect("/count")


urlpatterns = [
    path("person", person),
    path("upload", upload),
    path("count", count),
    path("stream/<int:blocks>", stream),
    path("path/<path:rest>", where),
    path("away", away),
]

app = get_wsgi_application()
