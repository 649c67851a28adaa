"""The command `serve`, and the server beside a training."""

import contextlib
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.processes import has_ended, wait_until

from minigpt import cli
from minigpt.serve import beside
from minigpt.serve.server import DEFAULT_PORT, free_port, listen, named_hosts


@contextlib.contextmanager
def started(*words: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start `minigpt serve`, and yield the process and the address that it prints."""
    import sys

    command = [sys.executable, "-c", "from minigpt.cli import main; main()", "serve", *map(str, words), "--no-open"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read()


def test_ctrl_c_stops_the_server(tiny_run: Path) -> None:
    with started(tiny_run) as (process, line):
        found = re.fullmatch(r"tiny: http://127\.0\.0\.1:(\d+)/write \(Ctrl-C stops the server\)\n", line)
        assert found is not None
        assert get(int(found[1]), "/write")[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "") and process.returncode == 0


def test_another_host_needs_the_token(tiny_run: Path) -> None:
    with started(tiny_run, "--host", "0.0.0.0") as (_, line):
        found = re.search(r"http://[^:/]+:(\d+)/write\?token=([\w-]{22}) ", line)
        assert found is not None
        port, token = int(found[1]), found[2]
        assert get(port, "/api/model")[0] == 401
        assert get(port, f"/write?token={token}")[0] == 303


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "nothing"),
        (["RUN@3"], "no weights of step 3"),
        (["RUN", "--port", "99999"], "--port is 99999, but must be from 0 to 65,535"),
        (["RUN", "--host", ""], "host is empty"),
        (["RUN", "--host", "not.a.host.example"], "cannot listen on the ports"),
        (["RUN", "--prot", "1"], "--prot"),
    ],
)
def test_errors(tiny_run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", *(word.replace("RUN", str(tiny_run)) for word in words), "--no-open"])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_port_in_use(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=f"cannot listen on port {port} of 127.0.0.1"):
            listen("127.0.0.1", port)


def test_the_next_free_port() -> None:
    first = free_port()
    assert first >= DEFAULT_PORT
    with listen("127.0.0.1", first):
        assert free_port() > first


def test_host_names() -> None:
    assert named_hosts("0.0.0.0") == () and named_hosts("Box.local")[0] == "box.local"


def test_a_server_beside_a_training(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER", "true")  # the browser that is opened
    run, lines = tmp_path / "run", []
    with beside.served(run, lines.append):
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)/training", lines[0])[1])  # type: ignore[index]
        shutil.copytree(tiny_run, run)

        def answers() -> bool:
            with contextlib.suppress(OSError):
                return json.loads(get(port, "/api/model")[1])["steps"][0] == 0
            return False

        wait_until(answers, "the server beside the training does not answer")
    with pytest.raises(ConnectionRefusedError):
        get(port, "/api/model")


def test_the_server_ends_with_the_training(tmp_path: Path) -> None:
    import sys

    code = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-m', 'minigpt.serve.beside', sys.argv[1], '1']); "
        "print(child.pid, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "none")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    wait_until(lambda: not has_ended(child), "the server has not started")
    import time

    time.sleep(2)  # until it looks for the run
    process.kill()
    process.wait()
    wait_until(lambda: has_ended(child), "the server goes on without the training")
