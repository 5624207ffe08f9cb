"""A Django project in one file: settings, a login, an upload that needs it, the WSGI application.

Needs `pip install django`. No database: the session is in a signed cookie. The password is $PASSWORD, or "bjoern".
"""

from __future__ import annotations

import hashlib
import os
import secrets

from django import forms
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.template import engines
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

import bjoern

PAGE = """<!doctype html>
<meta charset="utf-8">
<title>{{ title }}</title>
<h1>{{ title }}</h1>
{% if file %}<p id="received">{{ file.name }}: {{ file.size }} bytes, SHA-256 {{ digest }}</p>{% endif %}
<form method="post" enctype="multipart/form-data">{% csrf_token %}{{ form.as_p }}<button id="send">Send</button></form>
{% if name %}<form method="post" action="/logout">{% csrf_token %}<button>Log {{ name }} out</button></form>{% endif %}
"""


class Login(forms.Form):
    name = forms.CharField(max_length=20)
    password = forms.CharField(widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}))

    def clean_password(self) -> str:
        password: str = self.cleaned_data["password"]
        if not secrets.compare_digest(password.encode(), os.environ.get("PASSWORD", "bjoern").encode()):
            raise forms.ValidationError("That is not the password.")
        return password


class Upload(forms.Form):
    file = forms.FileField()


def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse("Hello from Django!\n", content_type="text/plain")


@csrf_exempt  # this form has no page of ours that could carry the token
def echo(request: HttpRequest) -> HttpResponse:
    return JsonResponse(request.POST.dict())


def page(request: HttpRequest, title: str, form: forms.Form, **context: object) -> HttpResponse:
    template = engines["django"].from_string(PAGE)
    name = request.session.get("name")
    return HttpResponse(template.render({"title": title, "form": form, "name": name, **context}, request))


def login(request: HttpRequest) -> HttpResponse:
    form = Login(request.POST or None)
    if not form.is_valid():
        return page(request, "Login", form)
    request.session["name"] = form.cleaned_data["name"]
    return HttpResponseRedirect("/upload")


@require_POST
def logout(request: HttpRequest) -> HttpResponse:
    request.session.flush()
    return HttpResponseRedirect("/login")


def upload(request: HttpRequest) -> HttpResponse:
    if "name" not in request.session:
        return HttpResponseRedirect("/login")
    form = Upload(request.POST or None, request.FILES or None)
    if not form.is_valid():
        return page(request, "Upload", form)
    file, digest = form.cleaned_data["file"], hashlib.sha256()
    for block in file.chunks():
        digest.update(block)
    return page(request, "Upload", Upload(), file=file, digest=digest.hexdigest())


urlpatterns = [path("", hello), *[path(view.__name__, view) for view in (echo, login, logout, upload)]]

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost", "[::1]"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.environ.get("SECRET_KEY") or secrets.token_urlsafe(),
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
)
app = get_wsgi_application()

if __name__ == "__main__":
    bjoern.run(app, "127.0.0.1", 8000)
