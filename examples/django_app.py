"""A Django project in one file: settings, two views, the WSGI application. Needs `pip install django`."""

from __future__ import annotations

import os
import secrets

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

import bjoern


def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse("Hello from Django!\n", content_type="text/plain")


@csrf_exempt  # this form has no page of ours that could carry the token
def echo(request: HttpRequest) -> HttpResponse:
    return JsonResponse(request.POST.dict())


urlpatterns = [path("", hello), path("echo", echo)]

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost", "[::1]"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.environ.get("SECRET_KEY") or secrets.token_urlsafe(),
)
app = get_wsgi_application()

if __name__ == "__main__":
    bjoern.run(app, "127.0.0.1", 8000)
