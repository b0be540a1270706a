"""knn-ner serve as a process: what it refuses to start with, clients that misbehave, and how it ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from knn_ner_jax.io import InputError
from knn_ner_jax.knn.memory import History
from knn_ner_jax.main.serve import access_for

TOKEN = "a-token-of-the-tests"
CONNECTION_ERRORS = (urllib.error.URLError, ConnectionError, TimeoutError)


def test_the_door_is_never_open_to_others():
    loopback = access_for("127.0.0.1", False, None)
    assert loopback.token is None
    assert not loopback.can_edit
    assert loopback.hosts == {"127.0.0.1", "localhost", "[::1]"}
    editing = access_for("localhost", True, None)
    assert editing.can_edit
    assert len(editing.token) >= 32
    assert editing.token != access_for("localhost", True, None).token
    with pytest.raises(InputError, match="KNN_NER_TOKEN"):
        access_for("0.0.0.0", False, None)
    assert access_for("0.0.0.0", False, TOKEN).hosts is None
    for token in ("short", "with a blank in it", "ünïcödé-in-a-token"):
        with pytest.raises(InputError, match="--token"):
            access_for("127.0.0.1", False, token)


class Refused(Exception):
    pass


class Process:
    """A server; `port` once it is ready."""

    def __init__(self, run: Path, *options: str):
        environment = os.environ | {"KNN_NER_TOKEN": TOKEN, "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("=8", "=1")}
        command = [
            sys.executable,
            "-c",
            "from knn_ner_jax import cli; cli.main()",
            "serve",
            str(run),
            "--port",
            "0",
            *options,
        ]
        self.process = subprocess.Popen(
            command, env=environment, cwd=run.parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for line in self.process.stdout:
            if match := re.search(r"http://127\.0\.0\.1:(\d+)/", line):
                self.port = int(match[1])
                return
        raise AssertionError(self.process.stderr.read())

    def ask(self, path: str, body: object = None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(f"{error.code} {error.read().decode()}") from None

    def send(self, content: bytes) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(content)
        return connection

    def end(self, number: int) -> str:
        self.process.send_signal(number)
        return self.process.communicate(timeout=60)[1]


@pytest.mark.slow
def test_clients_that_misbehave_keep_nobody_from_being_answered(evaluated, copy_of):
    server = Process(copy_of(evaluated) / "run", "--max-seconds", "2", "--max-body-bytes", "1000")
    try:
        head = b"POST /tag HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer %s\r\n" % (server.port, TOKEN.encode())
        head += b"Content-Type: application/json\r\nContent-Length: 20\r\n"
        silent, half_a_head, half_a_body = server.send(b""), server.send(head), server.send(head + b'\r\n{"text":')
        for _ in range(5):
            server.send(head + b'\r\n{"text":').close()
        assert server.ask("/tag", {"text": "Angela Merkel"})["sentences"]
        with server.send(b"\x16\x03\x01 no HTTP\r\n\r\n") as no_http:
            assert b"400" in no_http.recv(100)
        assert b"408" in half_a_body.recv(1000)
        assert silent.recv(100) == half_a_head.recv(100) == b""
        with pytest.raises(Refused, match="413"):
            server.ask("/tag", {"text": "a" * 2000})
        assert server.ask("/health")["status"] == "ok"
        other = socket.socket()
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", server.port))
        other.close()
    finally:
        errors = server.end(signal.SIGTERM)
    assert "Traceback" not in errors
    assert server.process.returncode == -signal.SIGTERM
    for each in (silent, half_a_head, half_a_body):
        each.close()


@pytest.mark.slow
def test_no_edit_that_was_acknowledged_is_lost_when_the_server_is_killed(evaluated, copy_of):
    run = copy_of(evaluated) / "run"
    acknowledged = []
    for kill_after in (3, 7):
        server = Process(run, "--edit")
        killed = False
        try:
            for number in range(100):
                sentence = {"tokens": [f"Word{len(acknowledged)}", "x"], "ner_tags": ["B-PER", "O"]}
                if number == kill_after:  # while the next one is being made
                    threading.Timer(0.02, server.process.kill).start()
                    killed = True
                edit = server.ask("/memory/add", {"sentences": [sentence], "source": f"edit {number}"})
                acknowledged.append((edit["version"], sentence["tokens"][0]))
        except CONNECTION_ERRORS:
            assert killed
        server.process.communicate(timeout=60)
        history = History(run / "datastore")
        for version, word in acknowledged:
            edit = history.edits[version - 1]
            assert (edit.version, history.sentences[edit.first_sentence][0]) == (version, (word, "x"))
        assert 0 <= history.version - len(acknowledged) <= 2  # one for each kill may be made without being acknowledged


@pytest.mark.slow
def test_two_servers_of_one_run_see_each_others_edits_and_survive_the_run(evaluated, copy_of):
    run = copy_of(evaluated) / "run"
    one, other = Process(run, "--edit"), Process(run, "--edit")
    try:
        sentence = {"tokens": ["Zyx", "won"], "ner_tags": ["B-PER", "O"]}
        assert one.ask("/memory/add", {"sentences": [sentence]})["version"] == 1
        question = {"tokens": ["Zyx", "won"], "neighbours": 1, "opinions": True}
        answer = other.ask("/tag", question)
        assert answer["version"] == 1
        assert answer["sentences"][0]["opinions"][0]["neighbours"][0]["word"] == "Zyx"
        assert other.ask("/memory/add", {"sentences": [sentence]})["version"] == 2
        assert one.ask("/memory/rollback", {"version": 0, "seen": 2})["version"] == 3
        (run / "datastore").rename(run / "gone")
        assert one.ask("/tag", question)["version"] == 3
        assert "warning" in one.ask("/health")
        with pytest.raises(Refused, match="503"):
            one.ask("/memory/add", {"sentences": [sentence]})
    finally:
        errors = [each.end(signal.SIGTERM) for each in (one, other)]
    assert "Traceback" not in "".join(errors)


def test_what_stops_a_start_is_one_line(tmp_path, capsys, monkeypatch):
    from knn_ner_jax import cli

    monkeypatch.delenv("KNN_NER_TOKEN", raising=False)
    (tmp_path / "eval.json").write_text("{}")

    def refused(*options: str) -> str:
        with pytest.raises(SystemExit) as stop:
            cli.main(["serve", str(tmp_path), *options])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "set KNN_NER_TOKEN" in refused("--host", "0.0.0.0")
    assert "at least 16 characters" in refused("--token", "secret")
    assert "--max-texts: expected more than 0" in refused("--max-texts", "0")
    assert "--port: expected 0 to 65535" in refused("--port", "99999")
    assert "expected an address to listen at" in refused("--host", "no.such.host.invalid", "--token", TOKEN)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "expected an address to listen at" in refused("--port", str(taken.getsockname()[1]))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'knn-ner-jax[serve]'" in refused()
