"""Serve an evaluated tagger: a page to try it on, and an API."""

import asyncio
import importlib.util
import math
import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knn_ner_jax.cli import Parser
from knn_ner_jax.io import InputError, check_finished

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from knn_ner_jax.serve.app import Access, Limits

TOKEN = "KNN_NER_TOKEN"  # an environment variable, which other users do not see among the processes
LOOPBACK = ("127.0.0.1", "::1", "localhost")
PACKAGES = ("starlette", "uvicorn", "prometheus_client")
SHORTEST_TOKEN = 16
CONNECTIONS = 1024
LAST_PORT = 65535
IDLE_SECONDS = 30  # of a connection between two requests
OPTIONS = {
    "body_bytes": "bytes of a request",
    "texts": "texts of a request",
    "words": "words of a request",
    "neighbours": "neighbours of an entity or a word",
    "queue": "requests that wait",
    "seconds": "seconds until a request is answered",
}


def _parser(limits: "Limits") -> Parser:
    parser = Parser(prog="knn-ner serve", description="A page to try an evaluated tagger on, and an API.")
    parser.add_argument("eval_dir", metavar="RUN", help="the folder that eval wrote to: its eval_dir, or the run_dir")
    parser.add_argument(
        "--host", default=LOOPBACK[0], help=f"address to listen at; default: {LOOPBACK[0]}, this machine alone"
    )
    parser.add_argument("--port", type=int, default=8000, help="default: 8000; 0: any that is free")
    parser.add_argument(
        "--edit", action="store_true", help="allow to edit the memory; needs a token, which is made if none is given"
    )
    parser.add_argument("--token", help=f"that requests must bear; better given as the environment variable {TOKEN}")
    for field in fields(limits):
        default = getattr(limits, field.name)
        help_ = f"the most {OPTIONS[field.name]}; default: {default:g}"
        parser.add_argument(
            f"--max-{field.name.replace('_', '-')}", dest=field.name, type=type(default), default=default, help=help_
        )
    return parser


def access_for(host: str, edit: bool, token: str | None) -> "Access":
    """Return who may do what; InputError where that would let anybody in.

    Args:
        host: that the server listens at.
        edit: whether the memory may be edited.
        token: that was given.
    """
    from knn_ner_jax.serve.app import Access

    if token is not None and len(token) < SHORTEST_TOKEN:
        raise InputError(f"--token: expected at least {SHORTEST_TOKEN} characters, got {len(token)}")
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise InputError("--token: expected ASCII without blanks, which a header can hold, got others")
    if host in LOOPBACK:
        # A page of another site may have its name point here; it cannot forge this header.
        hosts = frozenset(f"[{name}]" if ":" in name else name for name in LOOPBACK)
        return Access(token or (secrets.token_urlsafe(24) if edit else None), edit, hosts)
    if token is None:
        raise InputError(f"--host: expected a token for other hosts than {', '.join(LOOPBACK)}, got none; set {TOKEN}")
    return Access(token, edit)


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= LAST_PORT:
        raise InputError(f"--port: expected 0 to {LAST_PORT}, got {port}")
    try:
        # Listens at once, so that a second server at this port fails now.
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: expected an address to listen at, got: {error}") from error


def main(argv: Sequence[str]) -> None:
    """Serve until the process is interrupted.

    Args:
        argv: words of the command line after the command.

    Raises:
        InputError: a package of the extra `serve` is missing, an option is wrong, the address is in use, or see
            `knn_tagger.load` and `memory.Memory`.
    """
    if missing := [package for package in PACKAGES if importlib.util.find_spec(package) is None]:
        raise InputError(f"serve: expected {', '.join(missing)}, found none; pip install 'knn-ner-jax[serve]'")
    from knn_ner_jax.serve.app import Limits

    options = vars(_parser(Limits()).parse_args(argv))
    limits = Limits(**{field.name: options[field.name] for field in fields(Limits)})
    for field in fields(limits):
        if not (value := getattr(limits, field.name)) > 0:
            raise InputError(f"--max-{field.name.replace('_', '-')}: expected more than 0, got {value:g}")
    folder = Path(options["eval_dir"]).expanduser()
    check_finished(folder, "evaluation")
    token = options["token"] or os.environ.get(TOKEN) or None
    access = access_for(options["host"], options["edit"], token)
    with _listen(options["host"], options["port"]) as listener:
        _serve(folder, listener, options["host"], access, limits, is_new=token is None)


def _serve(folder: Path, listener: socket.socket, host: str, access: "Access", limits: "Limits", is_new: bool) -> None:
    from knn_ner_jax.knn_tagger import load
    from knn_ner_jax.serve.app import Server
    from knn_ner_jax.serve.batcher import Batcher
    from knn_ner_jax.serve.metrics import Metrics

    print(f"loading {folder} and compiling ...", flush=True)
    metrics = Metrics()
    batcher = Batcher(load(folder), limits.neighbours, limits.queue, metrics)
    batcher.start()
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/"
    # Only a token that was made here is shown: one that was given may be the secret of others, too.
    secret = f"#token={access.token}" if is_new and access.token else ""
    print(f"serving {batcher.num_rows} rows, version {batcher.version}, at {address}{secret}", flush=True)
    _answer(Server(batcher, metrics, access, limits).application(), listener, limits.seconds)


def _protocol(seconds: float) -> "type[H11Protocol]":
    """Return a protocol that closes connections on which the head of a request takes longer than so many seconds."""
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._timer = self.loop.call_later(seconds, transport.close)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            is_in_head = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
            if self._timer is not None and not is_in_head:
                self._timer.cancel()
                self._timer = None
            elif self._timer is None and is_in_head:
                self._timer = self.loop.call_later(seconds, self.transport.close)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._timer is not None:
                self._timer.cancel()
            super().connection_lost(exc)

    return Protocol


def _answer(application: "Starlette", listener: socket.socket, seconds: float) -> None:
    """Answer requests until the process is interrupted; then finish those that have begun, for at most so many seconds."""
    import uvicorn

    settings: dict[str, Any] = {"http": _protocol(seconds), "ws": "none", "log_level": "warning", "access_log": False}
    settings |= {"server_header": False, "limit_concurrency": CONNECTIONS, "timeout_keep_alive": IDLE_SECONDS}
    config = uvicorn.Config(application, **settings, timeout_graceful_shutdown=math.ceil(seconds))
    uvicorn.Server(config).run(sockets=[listener])
