"""Forwarded, X-Forwarded-* and root_path: what the application sees of a client behind proxies, and who is believed.

How it works: the tests' own client is the proxy, at 127.0.0.1, ::1 or a unix socket; `apps.echo` reports the environ.
The tables of what fields say, hop by hop, are in engine/src/proxies; here is what becomes of it.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from bjoern import Options, options
from conftest import Serve
from programs import Program
from server_process import ServerProcess
from wire import message

ECHO = "apps.echo:app"
LOCAL = "127.0.0.1"
OPTIONS = {option.name: option for option in options.OPTIONS}

SHOWN = ("REMOTE_ADDR", "REMOTE_PORT", "wsgi.url_scheme", "HTTP_HOST", "SERVER_NAME", "SERVER_PORT")
AS_EVER = (LOCAL, "peer", "http", "test", "server", "port")  # what an application sees without proxies


@pytest.fixture(scope="module")
def trusting(server_python: str) -> Any:
    """A server that trusts this host and 10.0.0.0/8."""
    server = ServerProcess(server_python, ECHO, forwarded_allow_ips=f"{LOCAL}, 10.0.0.0/8")
    yield server
    server.check()
    server.stop()


def seen(server: ServerProcess, *lines: str, target: str = "/") -> dict[str, Any]:
    """The environ of a request with `lines`; what differs from run to run by a name."""
    with server.connect() as client:
        environ: dict[str, Any] = client.ask("GET", target, *lines).json()["environ"]
        own = str(client.sock.getsockname()[1]) if isinstance(server.address, tuple) else ""
    if isinstance(server.address, tuple):
        names = {"REMOTE_PORT": {own: "peer"}, "SERVER_NAME": {server.inet[0]: "server"}}
        names["SERVER_PORT"] = {str(server.inet[1]): "port"}
        for key, known in names.items():
            environ[key] = known.get(environ[key], environ[key])
    return environ


def shown(environ: dict[str, Any]) -> tuple[str, ...]:
    return tuple(environ[key] for key in SHOWN)


@pytest.mark.parametrize(
    ("lines", "want"),
    [
        ([], AS_EVER),
        (["X-Forwarded-For: 192.0.2.1"], ("192.0.2.1", "", *AS_EVER[2:])),
        (["X-Forwarded-For: 192.0.2.1:4660"], ("192.0.2.1", "4660", *AS_EVER[2:])),
        (["X-Forwarded-For: [2001:db8::1]:4660"], ("2001:db8::1", "4660", *AS_EVER[2:])),
        (["X-Forwarded-For: unknown"], ("", "", *AS_EVER[2:])),
        (["X-Forwarded-Proto: https"], (LOCAL, "peer", "https", "test", "server", "443")),
        (["X-Forwarded-Proto: http"], (LOCAL, "peer", "http", "test", "server", "80")),
        (["X-Forwarded-Host: a.example"], (LOCAL, "peer", "http", "a.example", "a.example", "80")),
        (["X-Forwarded-Host: a.example:81"], (LOCAL, "peer", "http", "a.example:81", "a.example", "81")),
        (["X-Forwarded-Host: [2001:db8::1]:81"], (LOCAL, "peer", "http", "[2001:db8::1]:81", "[2001:db8::1]", "81")),
        (["X-Forwarded-Host: [2001:db8::1]"], (LOCAL, "peer", "http", "[2001:db8::1]", "[2001:db8::1]", "80")),
        (["X-Forwarded-Port: 81"], (LOCAL, "peer", "http", "test", "server", "81")),
        # The host is as the client wrote it: the proxy's port may be another than that of the URL.
        (
            ["X-Forwarded-Proto: https", "X-Forwarded-Host: a.example", "X-Forwarded-Port: 8443"],
            (LOCAL, "peer", "https", "a.example", "a.example", "8443"),
        ),
        (
            ["X-Forwarded-Host: a.example:8080", "X-Forwarded-Port: 80"],
            (LOCAL, "peer", "http", "a.example:8080", "a.example", "80"),
        ),
        (
            ["Forwarded: for=192.0.2.1;proto=https;host=a.example;by=10.0.0.1"],
            ("192.0.2.1", "", "https", "a.example", "a.example", "443"),
        ),
        (
            ['Forwarded: for="[2001:db8::1]:4660";host="a.example:81"'],
            ("2001:db8::1", "4660", "http", "a.example:81", "a.example", "81"),
        ),
        (["Forwarded: for=_secret"], ("", "", *AS_EVER[2:])),
        # Two proxies.
        (
            ["X-Forwarded-For: 192.0.2.1, 10.0.0.2", "X-Forwarded-Proto: https"],
            ("192.0.2.1", "", "https", "test", "server", "443"),
        ),
        (
            ["Forwarded: for=192.0.2.1;proto=https;host=a, for=10.0.0.2;proto=http;host=b"],
            ("192.0.2.1", "", "https", "a", "a", "443"),
        ),
    ],
    ids=lambda value: "; ".join(value) if isinstance(value, list) else "",
)
def test_what_a_trusted_proxy_says(trusting: ServerProcess, lines: list[str], want: tuple[str, ...]) -> None:
    assert shown(seen(trusting, *lines)) == want


SPOOFED = [
    # A client that says it is somebody else: the proxy adds the truth on the right.
    (["X-Forwarded-For: 127.0.0.1, 192.0.2.1"], "192.0.2.1"),
    (["X-Forwarded-For: 10.0.0.9, 192.0.2.1"], "192.0.2.1"),
    (["X-Forwarded-For: 127.0.0.1", "X-Forwarded-For: 192.0.2.1"], "192.0.2.1"),
    (["X-Forwarded-For: 127.0.0.1, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
    (["X-Forwarded-For: ' OR 1=1 --, 192.0.2.1"], "192.0.2.1"),
    (["Forwarded: for=127.0.0.1, for=192.0.2.1"], "192.0.2.1"),
    (["Forwarded: for=127.0.0.1", "Forwarded: for=192.0.2.1"], "192.0.2.1"),
    # One that hides a field from the proxy by another spelling: the server drops names with underscores.
    (["X_Forwarded_For: 127.0.0.1", "X-Forwarded-For: 192.0.2.1"], "192.0.2.1"),
    # Where the proxy's word cannot be told from the client's, nobody is believed, nor the proxy taken for the client.
    (["Forwarded: for=127.0.0.1", "X-Forwarded-For: 192.0.2.1"], 400),
    (["Forwarded: host=evil.example", "X-Forwarded-For: 192.0.2.1"], 400),
    (["X-Forwarded-Host: evil.example", "Forwarded: for=192.0.2.1"], 400),
    (['Forwarded: for=127.0.0.1;x=", for=192.0.2.1'], 400),
    (['Forwarded: for=127.0.0.1;x=", for="[2001:db8::1]"'], 400),
    (["X-Forwarded-For:"], 400),
    (["X-Forwarded-For: 127.0.0.1, "], 400),
    (["X-Forwarded-For: localhost"], 400),
    (["X-Forwarded-For: 127.0.0.1 192.0.2.1"], 400),
    (["X-Forwarded-For: 0127.0.0.1"], 400),
    (["X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: javascript"], 400),
    (["X-Forwarded-For: 192.0.2.1", "X-Forwarded-Host: evil.example/@a"], 400),
    (["X-Forwarded-For: 192.0.2.1, 10.0.0.2, 10.0.0.3", "X-Forwarded-Proto: https, http"], 400),
]


@pytest.mark.parametrize(
    ("lines", "want"), SPOOFED, ids=lambda value: "; ".join(value) if isinstance(value, list) else ""
)
def test_clients_that_lie(trusting: ServerProcess, lines: list[str], want: str | int) -> None:
    if isinstance(want, str):
        assert seen(trusting, *lines)["REMOTE_ADDR"] == want
        return
    with trusting.connect() as client:
        client.send(message("GET", "/", *lines))
        client.expect_refusal(want)


CLAIMS = ["X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: a", "X-Forwarded-Port: 81"]
MORE_CLAIMS = ["X-Real-IP: 192.0.2.1", "X-Forwarded-Prefix: /a", "X-Forwarded-Ssl: on", "Forwarded: for=192.0.2.1"]


def keys(*lines: str) -> set[str]:
    return {"HTTP_" + line.partition(":")[0].upper().replace("-", "_") for line in lines}


def test_from_others_the_fields_change_nothing_and_do_not_reach_the_application(serve: Serve) -> None:
    """An application may believe them: whoever said whom to trust has said, too, that these are lies."""
    server = serve(ECHO, forwarded_allow_ips="192.0.2.1, 2001:db8::/32, unix")
    environ = seen(server, *CLAIMS, *MORE_CLAIMS, "X-Forwarded: 1", "Via: a")
    assert shown(environ) == AS_EVER
    assert not keys(*CLAIMS, *MORE_CLAIMS) & environ.keys()
    assert keys("X-Forwarded:", "Via:") <= environ.keys(), "these are none"
    assert seen(server, "X-Forwarded-For: x", "Forwarded: y")["REMOTE_ADDR"] == LOCAL, "nor is it read what they say"


def test_where_nobody_is_trusted_the_fields_are_the_applications_affair(shared: Serve) -> None:
    environ = seen(shared(ECHO), *CLAIMS, *MORE_CLAIMS)
    assert shown(environ) == AS_EVER
    assert keys(*CLAIMS, *MORE_CLAIMS) <= environ.keys()


def test_from_a_trusted_proxy_the_application_sees_the_fields_as_well(trusting: ServerProcess) -> None:
    environ = seen(trusting, "X-Forwarded-For: 192.0.2.66, 192.0.2.1", "X-Forwarded-Prefix: /a")
    assert environ["HTTP_X_FORWARDED_FOR"] == "192.0.2.66, 192.0.2.1"
    assert environ["HTTP_X_FORWARDED_PREFIX"] == "/a"


@pytest.mark.parametrize(("trusted", "want"), [("::1", "192.0.2.1"), ("::/0", "192.0.2.1"), (LOCAL, "::1")])
def test_a_proxy_over_ipv6(serve: Serve, trusted: str, want: str) -> None:
    server = serve(ECHO, host="::1", forwarded_allow_ips=trusted)
    assert seen(server, "X-Forwarded-For: 192.0.2.1")["REMOTE_ADDR"] == want


@pytest.mark.parametrize(("trusted", "want"), [("unix", "192.0.2.1"), ("*", "192.0.2.1"), ("0.0.0.0/0, ::/0", "")])
def test_a_proxy_over_a_unix_socket(
    serve: Serve, trusted: str, want: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server = serve(ECHO, host=f"unix:{tmp_path_factory.mktemp('s')}/s", forwarded_allow_ips=trusted)
    environ = seen(server, "X-Forwarded-For: 192.0.2.1:5", "X-Forwarded-Proto: https", "X-Forwarded-Host: a.example")
    assert environ["REMOTE_ADDR"] == want
    if want:
        assert shown(environ) == (want, "5", "https", "a.example", "a.example", "443")


@pytest.mark.parametrize(
    ("trusted", "want"), [("*", "10.0.0.2"), ("* 10.0.0.0/8", "192.0.2.1"), ("* 0.0.0.0/0", "192.0.2.66")]
)
def test_who_may_speak_and_who_is_passed_over(serve: Serve, trusted: str, want: str) -> None:
    """`*` lets every peer speak; which hops are proxies it does not say."""
    server = serve(ECHO, forwarded_allow_ips=trusted)
    assert seen(server, "X-Forwarded-For: 192.0.2.66, 192.0.2.1, 10.0.0.2")["REMOTE_ADDR"] == want


def test_each_request_of_a_connection_has_its_own_client(trusting: ServerProcess) -> None:
    """A proxy keeps its connections, and sends everybody's requests down them."""
    with trusting.connect() as client:
        for number in range(1, 20):
            lines = [f"X-Forwarded-For: 192.0.2.{number}"] if number % 3 else []
            environ = client.ask("POST", "/", *lines, body=b"x" * number).json()["environ"]
            assert environ["REMOTE_ADDR"] == (f"192.0.2.{number}" if lines else LOCAL)
        client.send(b"".join(message("GET", "/", f"X-Forwarded-For: 192.0.2.{number}") for number in range(9)))
        for number in range(9):
            assert client.recv_response().json()["environ"]["REMOTE_ADDR"] == f"192.0.2.{number}"


def test_a_body_that_comes_later_has_the_client_of_its_head(trusting: ServerProcess) -> None:
    wire = message("POST", "/", "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", chunks=[b"hello", b"world"])
    with trusting.connect() as client:
        for cut in (len(wire) - 30, len(wire) - 1):
            client.send(wire[:cut])
            client.send(wire[cut:])
            report = client.recv_response().json()
            assert (report["body"], report["environ"]["REMOTE_ADDR"]) == ("helloworld", "192.0.2.1")
            assert report["environ"]["wsgi.url_scheme"] == "https"


def test_an_absolute_target_stands_behind_what_the_proxy_says(trusting: ServerProcess) -> None:
    environ = seen(trusting, "X-Forwarded-Host: a.example", target="http://b.example:82/")
    assert (environ["HTTP_HOST"], environ["SERVER_PORT"]) == ("a.example", "80")
    environ = seen(trusting, "X-Forwarded-Proto: https", target="http://b.example:82/")
    assert (environ["HTTP_HOST"], environ["SERVER_PORT"]) == ("b.example:82", "82")


@pytest.mark.parametrize("target", ["https://test/", "HTTPS://test", "https://test:8443/"])
@pytest.mark.parametrize(
    ("lines", "is_https"),
    [
        (["X-Forwarded-Proto: https"], True),
        (["X-Forwarded-Proto: WSS"], True),
        (["Forwarded: for=192.0.2.1;proto=https"], True),
        (["X-Forwarded-For: 192.0.2.1, 10.0.0.2", "X-Forwarded-Proto: https, http"], True),
        (["X-Forwarded-For: 192.0.2.1, 10.0.0.2", "X-Forwarded-Proto: http, https"], False),
        (["X-Forwarded-Proto: http"], False),
        (["X-Forwarded-For: 192.0.2.1"], False),
        ([], False),
    ],
    ids=lambda value: "; ".join(value) if isinstance(value, list) else "",
)
def test_a_target_with_https_is_served_where_a_trusted_proxy_says_so(
    trusting: ServerProcess, lines: list[str], is_https: bool, target: str
) -> None:
    """RFC 9110, section 7.4: to answer it over TCP would be to answer for an origin that has shown no certificate."""
    if is_https:
        environ = seen(trusting, *lines, target=target)
        assert (environ["wsgi.url_scheme"], environ["REQUEST_URI"]) == ("https", target)
        return
    with trusting.connect() as client:
        client.send(message("GET", target, *lines))
        client.expect_refusal(421)


@pytest.mark.parametrize("trusted", ["", "192.0.2.1"])
def test_a_target_with_https_from_a_stranger_is_misdirected(serve: Serve, trusted: str) -> None:
    server = serve(ECHO, forwarded_allow_ips=trusted)
    for lines in ([], ["X-Forwarded-Proto: https"], ["Forwarded: proto=https"]):
        with server.connect() as client:
            client.send(message("GET", "https://test/", *lines))
            client.expect_refusal(421)


def test_several_loops_and_threads(serve: Serve) -> None:
    server = serve(ECHO, forwarded_allow_ips=LOCAL, root_path="/shop", threads=2)
    environ = seen(server, "X-Forwarded-For: 192.0.2.1", target="/shop/a")
    assert (environ["REMOTE_ADDR"], environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("192.0.2.1", "/shop", "/a")


def test_stats_count_what_was_refused() -> None:
    program = """
import http.client
with bjoern.Server(app, "127.0.0.1:0", forwarded_allow_ips="127.0.0.1") as server:
    for value in ("192.0.2.1", "x"):
        client = http.client.HTTPConnection("127.0.0.1", server.addresses[0].port)
        client.request("GET", "/", headers={"X-Forwarded-For": value})
        say(client.getresponse().status)
    say(server.stats()["bad_forwarded"], server.stats()["requests"])
"""
    with Program.of(program) as running:
        assert running.end().output.splitlines() == ["200", "400", "1 1"]


# root_path -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "path_info"),
    [
        ("/shop", ""),
        ("/shop/", "/"),
        ("/shop/a/b?c=d", "/a/b"),
        ("/shop//a", "//a"),
        ("/shop/shop", "/shop"),
        ("/sh%6fp/%C3%A9", "/\xc3\xa9"),
        # The proxy has taken it away already, or the path is another.
        ("/", "/"),
        ("/a?b", "/a"),
        ("/shopping", "/shopping"),
        ("/Shop/a", "/Shop/a"),
        ("//shop/a", "//shop/a"),
        ("/a/shop", "/a/shop"),
        ("http://test/shop/a", "/a"),
        ("http://test", "/"),
    ],
)
def test_root_path(serve: Serve, target: str, path_info: str) -> None:
    environ = seen(serve(ECHO, root_path="/shop"), target=target)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/shop", path_info)
    assert environ["RAW_URI"] == environ["REQUEST_URI"] == target


def test_root_path_of_several_segments_and_letters_beyond_ascii(serve: Serve) -> None:
    environ = seen(serve(ECHO, root_path="/a b/caf\xe9"), target="/a%20b/caf%C3%A9/x")
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/a b/caf\xc3\xa9", "/x")


def test_root_path_of_options_asterisk(serve: Serve) -> None:
    with serve("apps.echo:raw", root_path="/shop").connect() as client:
        environ = client.ask("OPTIONS", "*").json()["environ"]
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/shop", "*")


# The options ---------------------------------------------------------------------------------------------------------


def resolve(environ: dict[str, str], **keywords: Any) -> Options:
    return Options.resolve("listen", keywords, environ)


def test_forwarded_allow_ips_has_a_variable_that_others_read_too() -> None:
    shared = {"FORWARDED_ALLOW_IPS": "10.0.0.1,unix"}
    assert resolve(shared).forwarded_allow_ips == "10.0.0.1,unix"
    assert resolve({**shared, "BJOERN_FORWARDED_ALLOW_IPS": "*"}).forwarded_allow_ips == "*"
    assert resolve({**shared, "BJOERN_FORWARDED_ALLOW_IPS": "none"}).forwarded_allow_ips == ""
    assert resolve(shared, forwarded_allow_ips="").forwarded_allow_ips == ""
    assert resolve({"FORWARDED_ALLOW_IPS": " "}).forwarded_allow_ips == ""
    with pytest.raises(ValueError, match=r"^FORWARDED_ALLOW_IPS must be a list of .*'proxy' .*, got '::1 proxy'$"):
        resolve({"FORWARDED_ALLOW_IPS": "::1 proxy"})


@pytest.mark.parametrize("value", ["", "*", "unix", "::1", "10.0.0.0/8,\t2001:db8::/32 , unix", "::ffff:10.0.0.0/104"])
def test_lists_that_are_right(value: str) -> None:
    """For the options as for the engine, which reads them once more."""
    import bjoern

    bjoern.Server(lambda environ, start_response: [], "127.0.0.1:0", forwarded_allow_ips=value).close()
    program = (
        f"server = bjoern.Server(app, '127.0.0.1:0', forwarded_allow_ips={value!r})\nserver.run(ready=server.stop)"
    )
    with Program.of(program) as running:
        assert running.end().code == 0


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("localhost", "'localhost'"),
        ("::1, 10.0.0", "'10.0.0'"),
        ("10.0.0.256", "'10.0.0.256'"),
        ("10.0.0.0/33", "'10.0.0.0/33'"),
        ("10.0.0.0/", "'10.0.0.0/'"),
        ("10.0.0.0/255.0.0.0", "'10.0.0.0/255.0.0.0'"),
        ("10.1.2.3/8", "10.1.2.3/8 has host bits set; do you mean 10.0.0.0/8?"),
        ("::1/64", "::1/64 has host bits set; do you mean ::/64?"),
        ("fe80::1%eth0", "'fe80::1%eth0'"),
        ("[::1]", "'[::1]'"),
        ("127.0.0.1:80", "'127.0.0.1:80'"),
        ("10.0.0.1;10.0.0.2", "'10.0.0.1;10.0.0.2'"),
        ("unix:/run/proxy", "'unix:/run/proxy'"),
    ],
)
def test_lists_that_are_wrong(value: str, part: str) -> None:
    with pytest.raises(ValueError) as caught:
        Options(forwarded_allow_ips=value)
    assert str(caught.value).startswith("forwarded_allow_ips must be a list of addresses, networks ")
    assert part in str(caught.value)
    assert str(caught.value).endswith(f", got {value!r}")


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("shop", "it does not begin with '/'"),
        ("/shop/", "it ends with '/'"),
        ("/", "it ends with '/'"),
        ("//shop", "it has an empty segment"),
        ("/a/../b", "it has an empty segment, '.' or '..'"),
        ("/a/.", "it has an empty segment, '.' or '..'"),
        ("/a?b", "'?' is in it"),
        ("/a#b", "'#' is in it"),
        ("/a%20b", "'%' is in it; write what it stands for"),
        ("/a\\b", "'\\\\' is in it"),
        ("/a\r\nb", "'\\r' is in it"),
        ("http://a/b", "it does not begin with '/'"),
    ],
)
def test_root_paths_that_are_wrong(value: str, fault: str) -> None:
    with pytest.raises(ValueError) as caught:
        resolve({}, root_path=value)
    assert str(caught.value).startswith(f"root_path must be a path such as /shop: {fault}")
    assert str(caught.value).endswith(f", got {value!r}")


@pytest.mark.parametrize(
    ("name", "value"), [("forwarded_allow_ips", None), ("root_path", b"/a"), ("proxy_protocol", 1)]
)
def test_wrong_types(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be .*, got "):
        resolve({}, **{name: value})


def test_the_command_has_the_options() -> None:
    environ = {name: value for name, value in os.environ.items() if name != "FORWARDED_ALLOW_IPS"}
    flags = ["--forwarded-allow-ips", "::1 proxy", "--proxy-protocol", "--root-path", "/shop"]
    with Program("-m", "bjoern", *flags, "examples.hello:app", environ=environ) as command:
        end = command.end()
    assert (end.code, end.errors.count("\n")) == (2, 1)
    assert end.errors.startswith("bjoern: error: --forwarded-allow-ips must be a list of "), json.dumps(end)
