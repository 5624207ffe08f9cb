"""The site with Django, and what Django adds: the admin with its login, CSRF tokens, `FileResponse`, a database."""

# Django has no types of its own.
# mypy: disable-error-code="import-untyped,misc,untyped-decorator"

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import django
from django import forms
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import (
    FileResponse,
    HttpRequest,
    HttpResponse,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.template import RequestContext, Template
from django.views.decorators.csrf import csrf_exempt

from frameworks.sites import CLOSED, FILE, FOLDER, ROWS, closed, digest, lines, row, who

NAME, PASSWORD = "admin", "only for tests"

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(FOLDER.name, "db.sqlite3")}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=[
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.messages",
        "django.contrib.sessions",
    ],
    LOGGING_CONFIG=None,
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.gzip.GZipMiddleware",
        "django.middleware.http.ConditionalGetMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],  # quick
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for tests",
    STATIC_URL="/static/",
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
)
django.setup()
logging.getLogger("django").addHandler(logging.NullHandler())  # "Not Found" is an answer here, not news

from django.contrib import admin  # noqa: E402  # needs the settings
from django.contrib.auth.models import User  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.db.backends.base.base import BaseDatabaseWrapper  # noqa: E402
from django.db.backends.signals import connection_created  # noqa: E402
from django.urls import path  # noqa: E402

call_command("migrate", verbosity=0)
User.objects.create_superuser(NAME, password=PASSWORD)


def hello(request: HttpRequest, name: str) -> HttpResponse:
    return HttpResponse(f"Hello, {name}!", content_type="text/plain")


def stream(request: HttpRequest, blocks: int) -> StreamingHttpResponse:
    return StreamingHttpResponse(lines(blocks), content_type="text/plain")


def count(request: HttpRequest) -> HttpResponse:
    request.session["count"] = request.session.get("count", 0) + 1
    return JsonResponse(request.session["count"], safe=False)


def file(request: HttpRequest) -> FileResponse:
    return FileResponse(FILE.open("rb"), as_attachment="attachment" in request.GET, filename=request.GET.get("name"))


def empty(request: HttpRequest) -> HttpResponse:
    response = HttpResponse(status=204)
    del response["Content-Type"]  # of nothing; the checker minds
    return response


def away(request: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect("/hello/away")


def error(request: HttpRequest) -> HttpResponse:
    raise ValueError("on purpose")


@csrf_exempt
def upload(request: HttpRequest) -> HttpResponse:
    content = request.FILES["file"]
    return JsonResponse(digest(content) | {"name": content.name, "word": request.POST["word"]})


@csrf_exempt
def raw(request: HttpRequest) -> HttpResponse:
    return JsonResponse(digest(request))


# Django's own --------------------------------------------------------------------------------------------------------


class Picture(forms.Form):
    title = forms.CharField(max_length=20)
    file = forms.FileField()


PAGE = Template(
    '<form method="post" enctype="multipart/form-data">{% csrf_token %}{{ form }}<button>Send</button></form>'
)


def picture(request: HttpRequest) -> HttpResponse:
    """A form as people write them: shown with its token, validated, shown again with what is wrong."""
    form = Picture(request.POST or None, request.FILES or None)
    if form.is_valid():
        content = form.cleaned_data["file"]
        return JsonResponse(digest(content) | {"title": form.cleaned_data["title"], "kind": type(content).__name__})
    return HttpResponse(PAGE.render(RequestContext(request, {"form": form})), status=422 if form.is_bound else 200)


def long_text(request: HttpRequest) -> HttpResponse:
    return HttpResponse("all the same " * 10_000, content_type="text/plain")


def generated(request: HttpRequest) -> FileResponse:
    """A file response of something that is no file."""

    def blocks() -> Iterator[bytes]:
        yield from lines(1000)

    return FileResponse(blocks(), filename="lines.txt", as_attachment=True)


# Users and their exports, from the database --------------------------------------------------------------------------

CONNECTIONS: list[BaseDatabaseWrapper] = []  # each thread's, once it has been opened


def note_connection(connection: BaseDatabaseWrapper, **_: object) -> None:
    if connection not in CONNECTIONS:
        CONNECTIONS.append(connection)


connection_created.connect(note_connection)

with connection.cursor() as cursor, transaction.atomic():
    cursor.execute("CREATE TABLE exported (number INTEGER)")
    cursor.executemany("INSERT INTO exported VALUES (%s)", [(number,) for number in range(ROWS)])
connection.close()


def asked(request: HttpRequest) -> str:
    """The user's name, by way of the database."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s", [request.COOKIES["user"]])
        return str(cursor.fetchone()[0])


def export(request: HttpRequest) -> StreamingHttpResponse:
    """Row by row from one cursor."""

    def rows() -> Iterator[bytes]:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT number FROM exported ORDER BY number")
                while found := cursor.fetchone():
                    yield row(request.COOKIES["user"], found[0])
        finally:
            CLOSED.append(asked(request))

    return StreamingHttpResponse(rows(), content_type="text/plain")


def tell_who(request: HttpRequest) -> HttpResponse:
    return HttpResponse(who(asked(request)), content_type="text/plain")


def tell_closed(request: HttpRequest) -> HttpResponse:
    return HttpResponse(closed(), content_type="text/plain")


MEETING = threading.Barrier(6, timeout=30)


def large(request: HttpRequest) -> HttpResponse:
    """More bytes than sockets hold, from a view that has asked the database. `meet` waits for five other requests."""
    body = asked(request).encode().ljust(8_000_000, b".")
    if "meet" in request.GET:
        MEETING.wait()  # so that each request has another thread
    return HttpResponse(body, content_type="text/plain")


urlpatterns = [
    path("hello/<name>", hello),
    path("stream/<int:blocks>", stream),
    *[path(view.__name__, view) for view in (count, file, empty, away, error, upload, raw)],
    *[path(view.__name__, view) for view in (picture, long_text, generated)],
    *[path(view.__name__, view) for view in (export, large)],
    path("who", tell_who),
    path("closed", tell_closed),
    path("admin/", admin.site.urls),
]

app = get_wsgi_application()
checked = validator(app)


def counted(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The site, and `/connections`: the process, and the number of its open database connections.

    Django does not see that request, because it would close the connection of the thread that counts.
    """
    if environ["PATH_INFO"] != "/connections":
        answer: Iterable[bytes] = app(environ, start_response)
        return answer
    text = b"%d %d" % (os.getpid(), sum(one.connection is not None for one in CONNECTIONS))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [text]
