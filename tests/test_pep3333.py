"""PEP 3333, what no other test here shows of it, and the document that says which test shows what.

Knows: `apps.pep3333`, the table of `wsgi_coverage.py`.   Must not know: what is shown elsewhere.
"""

from __future__ import annotations

import select
from pathlib import Path
from typing import Any

import pytest

from conftest import Observer, Serve
from wire import Client, message
from wsgi_coverage import COVERAGE, LEFT_OUT, VARIABLES, cited, document, functions_of

PEP, OBSERVED = "apps.pep3333:app", "apps.observed:app"
TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "wsgi.md"


def nothing_came(client: Client) -> bool:
    return not select.select([client.sock], [], [], 0)[0]


# The application object ----------------------------------------------------------------------------------------------


def test_two_positional_arguments(shared: Serve) -> None:
    assert shared(PEP).ask("GET", "/called").body == b"2 0"


def test_nothing_but_close_is_looked_at(shared: Serve) -> None:
    """Methods that the interpreter looks up in the type, such as `__iter__`, do not count."""
    with shared(PEP).connect() as client:
        assert client.ask("GET", "/private").body == b"ok"
        assert client.ask("GET", "/looked_at").body == b"close"


def test_one_block_has_its_length(shared: Serve) -> None:
    """Where `len()` of the iterable is 1; of others it is known too late."""
    server = shared(PEP)
    assert server.ask("GET", "/called").get("Content-Length") == "3"
    assert server.ask("GET", "/private").get("Content-Length") is None


# environ -------------------------------------------------------------------------------------------------------------


def test_the_variables_are_those_of_the_document(shared: Serve) -> None:
    fields = ["X-Field: a", "Content-Type: text/plain"]
    report = shared("apps.echo:raw").ask("POST", "/?a", *fields, body=b"hello").json()
    assert sorted(report["types"]) == sorted({"HTTP_X_FIELD" if "…" in name else name for name in VARIABLES} | SENT)


@pytest.mark.parametrize("chunked", [False, True])
def test_what_the_document_leaves_out_is_in_no_environ(shared: Serve, chunked: bool) -> None:
    sent = ["Proxy: http://evil.example", "Content-Type: text/plain", "X_Field: a"]
    body: dict[str, Any] = {"chunks": [b"hel", b"lo"]} if chunked else {"body": b"hello"}
    report = shared("apps.echo:raw").ask("POST", "/", *sent, **body).json()
    assert (report["body"], report["environ"]["CONTENT_LENGTH"]) == ("hello", "5")
    assert not {*LEFT_OUT, "HTTP_X_FIELD"} & report["environ"].keys()


SENT = {"HTTP_HOST", "HTTP_CONNECTION"}  # fields that the client of these tests sends of its own


def test_strings_are_latin_1(shared: Serve) -> None:
    environ = shared("apps.echo:raw").ask("GET", "/%E2%82%AC%ff", "X-A: \xe2\x82\xac\xff").json()["environ"]
    texts = [text for item in environ.items() for text in item if isinstance(text, str)]
    assert max("".join(texts)) == "\xff"
    assert (environ["PATH_INFO"], environ["HTTP_X_A"]) == ("/\xe2\x82\xac\xff", "\xe2\x82\xac\xff")


@pytest.mark.parametrize(
    ("target", "host", "version", "url"),
    [
        ("/url", "test", "1.1", "http://test/url"),
        ("/url?a=b%20c", "test:81", "1.1", "http://test:81/url?a=b%20c"),
        ("/url/", "[::1]:81", "1.1", "http://[::1]:81/url/"),
        ("/url", None, "1.0", "http://{0}:{1}/url"),
    ],
)
def test_the_url_can_be_put_together(shared: Serve, target: str, host: str | None, version: str, url: str) -> None:
    server = shared(PEP)
    answer = server.ask("GET", target, host=host, version=version).body
    assert answer.decode() == url.format(*server.inet)


def test_the_url_of_a_server_on_ipv6(serve: Serve) -> None:
    """An address stands in brackets in SERVER_NAME, as in a URL (RFC 3875 section 4.1.14)."""
    server = serve(PEP, host="::1")
    assert server.ask("GET", "/url", host=None, version="1.0").body == f"http://[::1]:{server.inet[1]}/url".encode()


def test_server_name_and_port_on_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    """Never empty; the application itself checks it."""
    server = serve(PEP, host=f"unix:{tmp_path}/s")
    assert server.ask("GET", "/url", host=None, version="1.0").body == b"http://localhost/url"


def test_errors_takes_any_text(shared: Serve) -> None:
    server = shared(PEP)
    assert server.ask("GET", "/errors").body == b"ok"
    assert server.wait_stderr("line two\n").startswith("written ")


# start_response ------------------------------------------------------------------------------------------------------


def test_the_head_waits_for_the_first_byte(shared: Serve, observer: Observer) -> None:
    """start_response was called, and two empty blocks came, before anything is sent."""
    with shared(OBSERVED).connect() as client:
        client.send(message("GET", "/iterate?size=0&blocks=2&gated=1", observer.line))
        observer.go(2)
        while observer.next() != "next 2":
            assert nothing_came(client)
        assert nothing_came(client)
        observer.go()
        assert client.recv_response().body == b""


def test_start_response_sends_nothing(shared: Serve, observer: Observer) -> None:
    with shared(OBSERVED).connect() as client:
        client.send(message("GET", "/write?gated=1", observer.line))
        assert observer.next() == "write 0"  # start_response was called, write not yet
        assert nothing_came(client)
        observer.go(4)
        assert client.recv_response().body == b"x" * 30


def test_exc_info_is_not_kept(shared: Serve) -> None:
    server = shared(PEP)
    with server.connect() as client:
        assert client.ask("GET", "/forgotten").status == 503
        assert client.ask("GET", "/is_forgotten").body == b"forgotten"
    server.wait_stderr("Known: on purpose")


def test_a_call_after_one_that_failed_needs_exc_info(shared: Serve) -> None:
    server = shared(PEP)
    statuses = [server.ask("GET", f"/again_after_an_error?told={told}").status for told in ("", "1")]
    server.stderr()  # heard, whatever it is
    assert statuses == [500, 200]


# Content-Length ------------------------------------------------------------------------------------------------------


def test_write_past_the_end_raises(shared: Serve) -> None:
    with shared(PEP).connect() as client:
        assert client.ask("GET", "/written_past_the_end").body == b"ok"
        assert client.ask("GET", "/was_refused").body == b"refused"


def test_a_short_body_is_told(serve: Serve) -> None:
    server = serve("apps.calls:app")
    with server.connect() as client:
        client.send(message("GET", "/lengths?promised=9&given=2"))
        client.recv_until_close()
    server.stop()  # after which all was heard that was said
    assert "Content-Length" in server.stderr()


# Middleware, and files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_empty_blocks_of_middleware(shared: Serve, version: str) -> None:
    """They are nothing on the wire: an empty chunk would end the body."""
    assert shared(PEP).ask("GET", "/middleware", version=version).body == b"abcd"


def test_a_wrapper_that_middleware_iterates(shared: Serve) -> None:
    source = (TESTS / "apps" / "pep3333.py").read_bytes()
    assert shared(PEP).ask("GET", "/iterated_wrapper").body == source.upper()


# The document --------------------------------------------------------------------------------------------------------


def test_every_cited_test_exists() -> None:
    for name in sorted(cited()):
        file, _, function = name.partition("::")
        assert function in functions_of(TESTS / file), name


def test_every_test_of_this_file_is_cited() -> None:
    here = Path(__file__).name
    about_the_document = {"test_every_cited_test_exists", "test_every_test_of_this_file_is_cited", "test_the_page"}
    assert functions_of(Path(__file__)) - about_the_document == {
        name.partition("::")[2] for name in cited() if name.startswith(f"{here}::")
    }


def test_the_page() -> None:
    assert all(requirement.tests or requirement.note for requirement in COVERAGE)
    assert PAGE.read_text("utf-8") == document(), "run: python tests/wsgi_coverage.py > docs/wsgi.md"
