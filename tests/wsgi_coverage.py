"""What PEP 3333 asks of a server, and the tests that show it: the table from which docs/wsgi.md is written.

    python tests/wsgi_coverage.py > docs/wsgi.md

Knows: PEP 3333, the names of the tests.   Must not know: how the server does it, pytest.
`test_pep3333.py` sees to it that the page is up to date and that every test named here exists.
"""

from __future__ import annotations

import ast
from itertools import groupby
from pathlib import Path
from typing import NamedTuple


class Requirement(NamedTuple):
    """One demand: the section it stands in, its weight there, our words for it, and the tests "file::function"."""

    section: str
    level: str
    text: str
    tests: tuple[str, ...] = ()
    note: str = ""


# Every variable of an environ; "…" stands for a header's name. A test compares them with those of a server.
VARIABLES = {
    "REQUEST_METHOD": "the method, case kept",
    "SCRIPT_NAME": "`root_path`; empty where that is not set: the application is the root",
    "PATH_INFO": "the path behind `root_path`, percent-decoded, each byte a latin-1 character",
    "QUERY_STRING": "what follows the first `?`, as it was sent; empty where there is none",
    "RAW_URI": "the target as it was sent",
    "REQUEST_URI": "the same, by the name that uWSGI gave it",
    "CONTENT_TYPE": "where the request has it",
    "CONTENT_LENGTH": "the number of bytes of the body, also of a chunked one; absent where neither is said",
    "SERVER_NAME": "the address that the listening socket has, IPv6 in brackets; `localhost` on a unix socket",
    "SERVER_PORT": "its port; `80` on a unix socket",
    "SERVER_PROTOCOL": "`HTTP/1.0` or `HTTP/1.1`",
    "SERVER_SOFTWARE": "`bjoern/` and the version",
    "REMOTE_ADDR": "the peer's address; empty on a unix socket",
    "REMOTE_PORT": "the peer's port; empty on a unix socket",
    "HTTP_…": "a field: `-` is `_`; repeated ones are joined by `, `, Cookie by `; `. Not `Proxy`, nor names with `_`",
    "wsgi.version": "`(1, 0)`",
    "wsgi.url_scheme": "`http`",
    "wsgi.input": "the whole body, seekable; an `io.BytesIO`, or a file where it is large",
    "wsgi.input_terminated": "`True`: reading to the end needs no CONTENT_LENGTH",
    "wsgi.errors": "`sys.stderr` as it was when the server started; where else it goes is the process's business",
    "wsgi.multithread": "whether another thread may call the application at the same time: `threads` is more than one",
    "wsgi.multiprocess": "`True`: the socket may be shared with other processes",
    "wsgi.run_once": "`False`",
    "wsgi.file_wrapper": "`FileWrapper(file, blocksize)`; it has `seekable`, `seek` and `tell` where the file has them",
}

# What other servers or the rule for fields would have, and no environ holds. A test sends the fields.
LEFT_OUT = {
    "HTTP_TRANSFER_ENCODING": "the server has decoded the body, whose length is `CONTENT_LENGTH`; an application that "
    "saw `chunked` would decode it again",
    "HTTP_CONTENT_LENGTH": "it is `CONTENT_LENGTH`",
    "HTTP_CONTENT_TYPE": "it is `CONTENT_TYPE`",
    "HTTP_PROXY": "CGI programs take it for the proxy that they should use (CVE-2016-5385)",
}

APPLICATION = "Specification Details"
ENVIRON = "environ Variables"
STREAMS = "Input and Error Streams"
START_RESPONSE = "The start_response() Callable"
LENGTH = "Handling the Content-Length Header"
STREAMING = "Buffering and Streaming"
BOUNDARIES = "Middleware Handling of Block Boundaries"
WRITE = "The write() Callable"
UNICODE = "Unicode Issues"
ERRORS = "Error Handling"
EXPECT = "HTTP 1.1 Expect/Continue"
OTHER = "Other HTTP Features"
THREADS = "Thread Support"
CONFIGURATION = "Application Configuration"
URL = "URL Reconstruction"
FILES = "Optional Platform-Specific File Handling"


def must(section: str, text: str, *tests: str, note: str = "") -> Requirement:
    return Requirement(section, "must", text, tests, note)


def should(section: str, text: str, *tests: str, note: str = "") -> Requirement:
    return Requirement(section, "should", text, tests, note)


COVERAGE = [
    must(
        APPLICATION,
        "The application is called once a request, with two positional arguments.",
        "test_pep3333.py::test_two_positional_arguments",
        "test_wsgi.py::test_close_is_called_once",
    ),
    must(
        APPLICATION,
        "The environ is a dict, no subclass, and the application may change it.",
        "test_wsgi.py::test_environ_types",
        "test_wsgi.py::test_environ",
    ),
    must(
        APPLICATION,
        "Any iterable of zero or more bytestrings is an answer.",
        "test_http.py::test_bodies_of_every_kind",
        "test_bodies.py::test_large_download",
    ),
    should(
        APPLICATION,
        "Bytes stay as they are, line ends included.",
        "test_http.py::test_bodies_of_every_kind",
    ),
    must(
        APPLICATION,
        "`close()` is called when the request is over, completed, failed or left by the client.",
        "test_wsgi.py::test_close_is_called_once",
        "test_wsgi.py::test_close_is_called_when_the_client_goes",
        "test_wsgi.py::test_close_is_called_when_the_application_ends_the_server",
        "test_http.py::test_reset_inside_a_response",
    ),
    must(
        APPLICATION,
        "`start_response` may be called as late as in the first iteration.",
        "test_wsgi.py::test_start_response",
    ),
    must(
        APPLICATION,
        "Of the iterable nothing is used but iteration, `len()` and `close`, save for the server's own file wrapper.",
        "test_pep3333.py::test_nothing_but_close_is_looked_at",
    ),
    must(
        ENVIRON,
        "The CGI variables are there, of type str: REQUEST_METHOD, SCRIPT_NAME, PATH_INFO, QUERY_STRING, CONTENT_TYPE, "
        "CONTENT_LENGTH, SERVER_PROTOCOL, and HTTP_ for each field of the request.",
        "test_wsgi.py::test_environ",
        "test_wsgi.py::test_environ_types",
        "test_wsgi.py::test_environ_of_http_1_0",
        "test_wsgi.py::test_environ_of_options_asterisk",
    ),
    must(
        ENVIRON,
        "SERVER_NAME and SERVER_PORT are there and never empty.",
        "test_wsgi.py::test_environ_addresses",
        "test_pep3333.py::test_the_url_of_a_server_on_ipv6",
        "test_pep3333.py::test_server_name_and_port_on_a_unix_socket",
    ),
    must(
        ENVIRON,
        "The `wsgi.` variables are there, with the values that are true of this server.",
        "test_wsgi.py::test_environ",
        "test_wsgi.py::test_environ_types",
    ),
    should(
        ENVIRON,
        "Other CGI variables that apply are given too, and the server documents which: see Variables.",
        "test_wsgi.py::test_environ_addresses",
        "test_pep3333.py::test_the_variables_are_those_of_the_document",
        "test_pep3333.py::test_what_the_document_leaves_out_is_in_no_environ",
    ),
    must(
        STREAMS,
        "`wsgi.input` has `read`, `readline`, `readlines` and `__iter__`, as in Python's library.",
        "test_bodies.py::test_input_is_like_bytesio",
    ),
    should(
        STREAMS,
        "Reading stops at the end of the body; from there on, and of an empty body, reads are empty. "
        "Sizes are optional, for `readline`, too.",
        "test_bodies.py::test_input_is_like_bytesio",
        "test_bodies.py::test_an_unread_body_is_not_the_next_request",
    ),
    must(
        STREAMS,
        "`wsgi.errors` has `write`, `writelines` and `flush`.",
        "test_pep3333.py::test_errors_takes_any_text",
    ),
    should(
        STREAMS,
        "`wsgi.errors` takes any text without an error, even what its encoding has not.",
        "test_pep3333.py::test_errors_takes_any_text",
    ),
    must(
        START_RESPONSE,
        "It takes a status, a list of headers and exc_info, by position, and returns a `write` callable.",
        "test_wsgi.py::test_start_response",
        "test_http.py::test_bodies_of_every_kind",
    ),
    should(
        START_RESPONSE,
        "Errors in status and headers (control characters, names that are no tokens, wrong types) are raised in the "
        "call, while the application is still running.",
        "test_wsgi.py::test_wrong_arguments",
    ),
    must(
        START_RESPONSE,
        "Headers that HTTP requires and the application leaves out are added; those it gives are not overridden.",
        "test_wsgi.py::test_headers_of_the_server",
        "test_wsgi.py::test_date_is_the_applications_where_it_gives_one",
        "test_wsgi.py::test_order_and_repetition",
        note="`Server` is not required, and sent only where `server_header` is set.",
    ),
    must(
        START_RESPONSE,
        "Names of headers are compared without regard to case.",
        "test_wsgi.py::test_headers_of_the_application",
        "test_wsgi.py::test_start_response",
    ),
    should(
        START_RESPONSE,
        "Hop-by-hop headers of the application are an error.",
        "test_wsgi.py::test_headers_of_the_application",
        "test_wsgi.py::test_connection_close_of_the_application",
        note="Departure: they are left out, and `Connection: close` is honoured. Applications in use send them, and "
        "bjoern 3 let them pass.",
    ),
    must(
        START_RESPONSE,
        "It sends nothing: the head goes out with the first byte of the body, or when there is none to come.",
        "test_pep3333.py::test_the_head_waits_for_the_first_byte",
        "test_pep3333.py::test_start_response_sends_nothing",
    ),
    should(
        START_RESPONSE,
        "With exc_info and nothing sent yet, the new status and headers replace the old.",
        "test_wsgi.py::test_start_response",
    ),
    must(
        START_RESPONSE,
        "With exc_info and the head sent, the exception of exc_info is raised again.",
        "test_wsgi.py::test_exc_info_after_the_head_ends_the_connection",
        "test_wsgi.py::test_start_response",
    ),
    must(
        START_RESPONSE,
        "Without exc_info a second call is an error.",
        "test_wsgi.py::test_start_response",
        "test_wsgi.py::test_a_request_that_is_over_cannot_be_answered",
    ),
    must(
        START_RESPONSE,
        "So it is where the first call failed.",
        "test_pep3333.py::test_a_call_after_one_that_failed_needs_exc_info",
    ),
    should(
        START_RESPONSE,
        "exc_info is not held beyond the call.",
        "test_pep3333.py::test_exc_info_is_not_kept",
        "test_wsgi.py::test_nothing_is_kept",
    ),
    should(
        LENGTH,
        "No more is sent than Content-Length says, and the iteration ends there.",
        "test_wsgi.py::test_a_body_longer_than_promised",
        "test_wsgi.py::test_close_is_called_once",
    ),
    should(
        LENGTH,
        "`write()` past Content-Length raises an error.",
        "test_pep3333.py::test_write_past_the_end_raises",
    ),
    should(
        LENGTH,
        "Where the body is shorter the connection is closed.",
        "test_wsgi.py::test_a_body_shorter_than_promised",
        "test_bodies.py::test_a_wrapped_file_that_is_too_short",
    ),
    should(
        LENGTH,
        "Where the body is shorter it is reported.",
        "test_pep3333.py::test_a_short_body_is_told",
    ),
    must(
        LENGTH,
        "Without Content-Length the body is delimited all the same: by the length of its one block, in HTTP/1.0 of the "
        "several in a list or a tuple, too; else by chunks in HTTP/1.1, by the end of the connection in HTTP/1.0.",
        "test_pep3333.py::test_one_block_has_its_length",
        "test_http.py::test_keep_alive",
        "test_http.py::test_bodies_of_every_kind",
    ),
    must(
        STREAMING,
        "No block is delayed: it is with the operating system before the next is asked for, or another thread sends it "
        "while the application makes the next.",
        "test_wsgi.py::test_quick_blocks_do_not_wait_for_a_slow_one",
        "test_wsgi.py::test_the_last_blocks_do_not_wait_for_close",
        "test_wsgi.py::test_each_block_is_on_the_wire_before_the_next_is_asked_for",
        "test_wsgi.py::test_blocks_of_a_known_length_are_not_delayed_either",
        "test_http.py::test_a_slow_reader_holds_the_application_back",
        note="The blocks of a list are there already, and share a send. Those of a quick iterator may share one, too: "
        "within about two milliseconds they leave, whatever the application does.",
    ),
    must(
        BOUNDARIES,
        "Empty blocks, which middleware yields while it gathers, are taken and send nothing.",
        "test_pep3333.py::test_empty_blocks_of_middleware",
        "test_wsgi.py::test_start_response",
    ),
    must(
        WRITE,
        "Before `write()` returns, its block is sent, or kept to be sent while the application goes on.",
        "test_wsgi.py::test_written_blocks_are_on_the_wire_before_write_returns",
    ),
    must(
        WRITE,
        "Blocks of the iterable follow those that were written.",
        "test_http.py::test_bodies_of_every_kind",
        "test_wsgi.py::test_start_response",
    ),
    must(
        UNICODE,
        "Strings given to the application hold nothing beyond latin-1.",
        "test_pep3333.py::test_strings_are_latin_1",
        "test_wsgi.py::test_environ",
    ),
    must(
        UNICODE,
        "Strings from the application that hold more are an error.",
        "test_wsgi.py::test_wrong_arguments",
    ),
    must(
        UNICODE,
        "What is a bytestring there is `bytes` here; other types are an error.",
        "test_broken.py::test_an_application_that_fails_before_its_first_byte",
        "test_broken.py::test_an_application_that_fails_in_its_body",
    ),
    should(
        ERRORS,
        "Exceptions of the application and of its iterable are caught and logged.",
        "test_broken.py::test_an_application_that_fails_before_its_first_byte",
        "test_broken.py::test_an_application_that_fails_in_its_body",
        "test_broken.py::test_system_exit_ends_the_server_with_its_code",
        note="`SystemExit` and `KeyboardInterrupt` end the server, after the requests at hand.",
    ),
    must(
        ERRORS,
        "An error that comes too late for another answer aborts the response visibly.",
        "test_broken.py::test_an_application_that_fails_in_its_body",
        "test_wsgi.py::test_exc_info_after_the_head_ends_the_connection",
    ),
    must(
        EXPECT,
        "`Expect: 100-continue` is answered with 100 before the body, at once.",
        "test_http.py::test_expect_continue",
        "test_http.py::test_expect_continue_behind_another_request",
        "test_http.py::test_expect_continue_needs_no_answer_where_the_body_is_there",
    ),
    must(
        EXPECT,
        "None of that in HTTP/1.0.",
        "test_http.py::test_http_1_0_expects_nothing",
    ),
    should(
        OTHER,
        "The meaning of the answer is the application's: nothing is changed but the framing.",
        "test_wsgi.py::test_order_and_repetition",
        "test_wsgi.py::test_headers_of_the_application",
        "test_http.py::test_head_says_what_get_says",
    ),
    must(
        OTHER,
        "Hop-by-hop features of the request are the server's: chunks are decoded, connections kept or closed.",
        "test_http.py::test_chunked_request",
        "test_http.py::test_connection_tokens",
        "test_http.py::test_no_body_and_still_in_step",
    ),
    should(
        THREADS,
        "An application that is not thread-safe can be served.",
        "test_wsgi.py::test_environ",
        "test_ownership.py::test_no_more_run_application_code_than_there_are_threads",
        note="With `threads=1` one thread at a time runs it, from the call to `close()` or between two blocks, "
        "and `wsgi.multithread` says so.",
    ),
    should(
        CONFIGURATION,
        "Whoever deploys the application may put pairs of names and values into the environ.",
        note="Departure: no option for it. Wrap the application, or let it read `os.environ`.",
    ),
    must(
        URL,
        "The URL can be put together from the environ, with and without a Host.",
        "test_pep3333.py::test_the_url_can_be_put_together",
        "test_pep3333.py::test_the_url_of_a_server_on_ipv6",
    ),
    must(
        FILES,
        "`wsgi.file_wrapper(file, block size)` is an iterable of its own, for files with `read` of any kind.",
        "test_bodies.py::test_other_wrapped_files",
        "test_http.py::test_bodies_of_every_kind",
        "test_pep3333.py::test_a_wrapper_that_middleware_iterates",
    ),
    must(
        FILES,
        "`close()` of the wrapper closes the file.",
        "test_bodies.py::test_a_wrapped_file_starts_where_it_stands",
    ),
    must(
        FILES,
        "Sending starts where the file stands, and ends at its end or after Content-Length.",
        "test_bodies.py::test_a_wrapped_file_starts_where_it_stands",
        "test_bodies.py::test_a_wrapped_file_that_is_too_short",
    ),
]


def cited() -> set[str]:
    """Every "file::function" that the table names."""
    return {test for requirement in COVERAGE for test in requirement.tests}


def functions_of(path: Path) -> set[str]:
    """The names of the test functions of a file."""
    functions = (node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.FunctionDef))
    return {function.name for function in functions if function.name.startswith("test_")}


def link(test: str) -> str:
    file, _, function = test.partition("::")
    return f"[`{function}`](../tests/{file})"


INTRODUCTION = """\
# WSGI

<!-- Written by tests/wsgi_coverage.py; change its table, then run it again. -->

What [PEP 3333](https://peps.python.org/pep-3333/) asks of a server, section by section and in our words, and the tests
that show it. Its demands on applications are left out. Where bjoern departs from the PEP, the row says so.
"""


def document() -> str:
    """The text of docs/wsgi.md."""
    lines = [INTRODUCTION]
    for section, group in groupby(COVERAGE, key=lambda requirement: requirement.section):
        lines += [f"## {section}\n", "| | what | shown by |", "|---|---|---|"]
        for requirement in group:
            text = " ".join(filter(None, [requirement.text, requirement.note]))
            lines.append(f"| {requirement.level} | {text} | {'<br>'.join(map(link, requirement.tests)) or 'no test'} |")
        lines.append("")
    lines += [
        "## Variables\n",
        "All that an environ holds. Behind a proxy that is trusted, `REMOTE_ADDR`, `REMOTE_PORT`, `wsgi.url_scheme`, "
        "`HTTP_HOST`,\n`SERVER_NAME` and `SERVER_PORT` are [what it tells of the client](running.md#behind-a-proxy).\n",
        "| variable | value |",
        "|---|---|",
    ]
    lines += [f"| `{name}` | {value} |" for name, value in VARIABLES.items()]
    lines += ["\nWhat no environ holds:\n", "| variable | why |", "|---|---|"]
    lines += [f"| `{name}` | {reason} |" for name, reason in LEFT_OUT.items()]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    print(document(), end="")
