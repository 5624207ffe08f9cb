"""The examples in docs/running.md and the README: commands, units of systemd, a container file, a manifest, programs.

How it works: each command is parsed as by `--check`, and those that run a service are run; what other programs read,
they are asked about where they are installed. nginx and HAProxy run theirs in `make system`.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bjoern import cli, options
from services import WHO, Service

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/running.md").read_text(encoding="utf-8")


def examples(language: str) -> list[str]:
    """The examples in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def manifest() -> Any:
    """The one for Kubernetes."""
    (text,) = examples("yaml")
    return yaml.safe_load(text)


def container() -> Any:
    (found,) = manifest()["spec"]["template"]["spec"]["containers"]
    return found


def commands() -> list[list[str]]:
    found = []
    for page in ("README.md", "docs/running.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for line in re.findall(r"^(?:    |ExecStart=\S*/)(bjoern .*?)(?: +#.*)?$", text, re.MULTILINE):
            found.append(shlex.split(line)[1:])
        found += [shlex.split(line)[1:] for line in re.findall(r"`(bjoern -[^`]*\w:\w[^`]*)`", text)]
        found += [json.loads(line)[1:] for line in re.findall(r'\["bjoern", .*\]$', text, re.MULTILINE)]
    return [words for words in found if words[0] not in ("[OPTIONS]", "--help") and "--completion" not in words]


def test_some_are_found() -> None:
    assert len(commands()) > 10


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_it_is_a_command(words: list[str]) -> None:
    chosen = cli.parser().strictly(words)
    assert re.fullmatch(r"[\w.]+(:.+)?", chosen.app)
    options.Options.resolve("bjoern", cli._keywords(chosen), {}, scope="command")


# Services


def unit() -> list[str]:
    (line,) = re.findall(r"^ExecStart=(.*)$", PAGE, re.MULTILINE)
    return shlex.split(line)


def dockerfile() -> dict[str, str]:
    (text,) = examples("dockerfile")
    return dict(line.split(" ", 1) for line in text.splitlines())


@pytest.mark.parametrize("words", [unit(), json.loads(dockerfile()["CMD"]), container()["args"]], ids="-".join)
def test_a_service_runs(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/wsgi.py").write_text(WHO.replace("app", "application"))
    arguments = " ".join(words[1:]).replace("/srv/shop/current", str(tmp_path))
    arguments = arguments.replace("0.0.0.0:8000", "127.0.0.1:0")
    if "--bind" not in words:  # the unit of the socket says where
        arguments = f"--bind 127.0.0.1:0 {arguments}"
    with Service(*arguments.split(), cwd=tmp_path, listens=False) as service:
        match = re.search(r"listening on (\S+) \(pid", service.wait("listening on"))
        assert match
        service.addresses = [match[1]]
        workers = int(words[words.index("--workers") + 1])
        assert len(service.workers(workers)) == workers
        service.stop()


def test_systemd_reads_its_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: on Debian, apt-get install systemd")
    service, activation = examples("systemd")
    service = service.replace(unit()[0], sys.executable)
    run = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True)
    if int(run.stdout.split()[1]) < 253:
        assert "Before, write `Type=notify` and\n  `ExecReload=kill -HUP $MAINPID`." in PAGE
        service = service.replace("Type=notify-reload", "Type=notify\nExecReload=kill -HUP $MAINPID")
    (tmp_path / "shop.service").write_text(service)
    (tmp_path / "shop.socket").write_text(activation)
    command = ["systemd-analyze", "verify", "--man=no", "./shop.service", "./shop.socket"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", ""), "it warns on standard error, and returns 0"


def seconds(line: str) -> float:
    (text,) = re.findall(rf"^{line}=(.*)$", PAGE, re.MULTILINE)
    return float(text)


GRACE = options.Options.declared["graceful_timeout"].default


def test_systemd_waits_for_the_drain() -> None:
    assert "--graceful-timeout" not in unit()
    assert seconds("TimeoutStopSec") > GRACE
    assert seconds("WatchdogSec") > 0


def test_ports_of_containers() -> None:
    address = "0.0.0.0:" + dockerfile()["EXPOSE"]
    assert address in json.loads(dockerfile()["CMD"])
    assert address in container()["args"]
    (port,) = container()["ports"]
    probes = [container()[name] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    for probed in (probe.get("httpGet") or probe["tcpSocket"] for probe in probes):
        assert f"0.0.0.0:{probed['port']}" == f"0.0.0.0:{port['containerPort']}" == address


def test_kubernetes_waits_for_the_drain() -> None:
    words = container()["args"]
    grace = float(words[words.index("--graceful-timeout") + 1])
    sleep, pause = container()["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    spec = manifest()["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] > float(pause) + grace
    assert manifest()["spec"]["selector"]["matchLabels"] == manifest()["spec"]["template"]["metadata"]["labels"]


# Programs, and what is written


@pytest.mark.parametrize("text", examples("python"))
def test_a_program_gives_options_that_exist(text: str) -> None:
    for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
        if ast.unparse(call.func) == "bjoern.run":
            keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
            options.Options.resolve("run", keywords, {}, scope="run")


@pytest.mark.parametrize("text", [*examples("json"), *re.findall(r"^\| `json` \| `(.*)` \|$", PAGE, re.MULTILINE)])
def test_a_record_is_json(text: str) -> None:
    assert json.loads(text)["pid"] > 0
