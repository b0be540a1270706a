"""The API and the page of a server: routes, who may do what, limits, and errors as JSON.

POST /tag                {"text": ...} | {"tokens": [...]} | {"texts": [...]}, "neighbours", "threshold", "opinions"
GET  /memory/log         every edit
POST /memory/add         {"sentences": [{"tokens": [...], "ner_tags": [...]}], "source", "who"}
POST /memory/relabel     {"words": [{"sentence_id", "word_id", "ner_tag"}], "who"}
POST /memory/remove      {"source"} | {"sentence_ids": [...]}, "who"
POST /memory/rollback    {"version", "seen", "who"}
GET  /health, /metrics, /
"""

import asyncio
import hmac
import json
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from knn_ner_jax.data.texts import Document
from knn_ner_jax.entities import TaggedText, check_threshold, leave_out
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.memory import Memory
from knn_ner_jax.knn.storage import DatastoreError, Edit
from knn_ner_jax.serve.batcher import ENDED, Batcher, BusyError
from knn_ner_jax.serve.metrics import Metrics
from knn_ner_jax.serve.page import SECURITY_POLICY, page

OPEN = ("/", "/health")  # to whom has no token
SHOWN_NEIGHBOURS = 8
RETRY_AFTER = {"Retry-After": "1"}  # seconds
CLOSE = {"Connection": "close"}  # nobody reads what is left of a body

logger = logging.getLogger(__name__)
_Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Limits:
    """What a request may ask for.

    Attributes:
        body_bytes: of its body.
        texts: in it.
        words: of all its texts, or sentences to add.
        neighbours: of an entity or a word.
        queue: requests that wait.
        seconds: until it is answered; also for its body to arrive.
    """

    body_bytes: int = 1 << 20
    texts: int = 256
    words: int = 10_000
    neighbours: int = 16
    queue: int = 256
    seconds: float = 30.0


@dataclass(frozen=True)
class Access:
    """Who may do what.

    Attributes:
        token: that requests must bear; None: none is needed.
        can_edit: whether the memory may be edited.
        hosts: names in the header Host that are answered, whatever the port; None: any.
    """

    token: str | None = None
    can_edit: bool = False
    hosts: frozenset[str] | None = None


def _fields(body: Any, expected: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """Return the fields of a body; raise InputError for one that is unknown or of another type."""
    if not isinstance(body, dict):
        raise InputError(f"body: expected an object, got {type(body).__name__}")
    for name, value in body.items():
        if name not in expected:
            raise InputError(f"{name}: no such field; expected {', '.join(expected)}")
        if not isinstance(value, expected[name]) or (isinstance(value, bool) and expected[name] is not bool):
            raise InputError(f"{name}: expected {_in_words(expected[name])}, got {json.dumps(value)[:80]}")
    return cast(dict[str, Any], body)


def _in_words(types: type | tuple[type, ...]) -> str:
    names = {str: "text", list: "a list", int: "an integer", float: "a number", dict: "an object", bool: "true or false"}
    given = types if isinstance(types, tuple) else (types,)
    return " or ".join(names[each] for each in given if not (each is int and float in given))


def _required(fields: Mapping[str, Any], name: str) -> Any:
    if name not in fields:
        raise InputError(f"{name}: expected it, got nothing")
    return fields[name]


def _cut(text: TaggedText, neighbours: int, thresholds: Mapping[str, float]) -> dict[str, Any]:
    """Return a text for JSON, with at most so many neighbours and without entities whose score is below a threshold."""
    kept = leave_out(text, thresholds)
    entities = tuple(replace(each, neighbours=each.neighbours[:neighbours]) for each in kept.entities)
    opinions = tuple(replace(each, neighbours=each.neighbours[:neighbours]) for each in kept.opinions)
    return replace(kept, entities=entities, opinions=opinions).to_dict()


def _to_dict(edit: Edit) -> dict[str, Any]:
    return {name: value for name, value in asdict(edit).items() if name not in ("shard", "sha256")}


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers)


class Server:
    """The application of one tagger.

    Args:
        batcher: that tags and edits; started.
        metrics: where it counts.
        access: who may do what.
        limits: of requests.
    """

    def __init__(self, batcher: Batcher, metrics: Metrics, access: Access, limits: Limits) -> None:
        self._batcher, self._metrics, self._access, self._limits = batcher, metrics, access, limits

    def application(self) -> Starlette:
        """Return the ASGI application; the batcher is closed with it."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> Any:
            yield
            await asyncio.to_thread(self._batcher.close)

        routes = [
            ("GET", "/", self._page),
            ("GET", "/health", self._health),
            ("GET", "/metrics", self._read_metrics),
            ("POST", "/tag", self._tag),
            ("GET", "/memory/log", self._log),
            ("POST", "/memory/add", self._add),
            ("POST", "/memory/relabel", self._relabel),
            ("POST", "/memory/remove", self._remove),
            ("POST", "/memory/rollback", self._rollback),
        ]
        return Starlette(
            routes=[Route(path, self._guarded(path, handler), methods=[method]) for method, path, handler in routes],
            exception_handlers={HTTPException: self._refuse},
            lifespan=lifespan,
        )

    async def _refuse(self, request: Request, error: Exception) -> Response:
        # Paths that there are not would each be a number of their own.
        assert isinstance(error, HTTPException)
        self._metrics.requests.labels("other", error.status_code).inc()
        return _error(error.status_code, f"{request.method} {request.url.path[:80]}: {error.detail}", error.headers)

    def _guarded(self, path: str, handler: _Handler) -> _Handler:
        """Return a handler that checks who asks, turns errors into answers, and is counted."""

        async def guarded(request: Request) -> Response:
            start = time.perf_counter()
            try:
                response = self._deny(request, path) or await handler(request)
            except ClientDisconnect:
                response = _error(400, "body: expected all of it, got a part")
            except HTTPException as error:
                response = _error(error.status_code, error.detail, error.headers)
            except DatastoreError as error:
                response = _error(503, str(error), RETRY_AFTER)
            except InputError as error:
                response = _error(422, str(error))
            except BusyError as error:
                response = _error(503, str(error), RETRY_AFTER)
            except OSError as error:
                logger.warning("%s: %s", path, error)
                response = _error(503, f"the run's folder cannot be used: {error.strerror}", RETRY_AFTER)
            except Exception:
                logger.exception("%s: a mistake of the server", path)
                response = _error(500, "a mistake of the server; it is in its log")
            self._metrics.requests.labels(path, response.status_code).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - start)
            response.headers["X-Content-Type-Options"] = "nosniff"
            response.headers["Cache-Control"] = "no-store"
            return response

        return guarded

    def _deny(self, request: Request, path: str) -> Response | None:
        """Return a refusal, or None for who may ask this."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if self._access.hosts is not None and re.sub(r":\d+$", "", host).lower() not in self._access.hosts:
            return _error(403, f"Host: expected {' or '.join(sorted(self._access.hosts))}, got {host[:80]}")
        if origin is not None and origin.partition("://")[2] != host:
            return _error(403, f"Origin: expected a page of {host[:80]}, got {origin[:80]}")
        if self._access.token is not None and path not in OPEN:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), self._access.token.encode()):
                expected = "Authorization: expected Bearer and the token that the server was started with"
                return _error(401, expected, {"WWW-Authenticate": "Bearer"})
        if request.method == "POST" and path != "/tag" and not self._access.can_edit:
            return _error(403, "editing is off; start the server with --edit")
        return None

    async def _body(self, request: Request) -> Any:
        """Return the JSON of a body."""
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            raise HTTPException(415, f"Content-Type: expected application/json, got {content_type[:80] or 'nothing'}")
        too_large = HTTPException(413, f"body: expected at most {self._limits.body_bytes} bytes, got more", CLOSE)
        if int(request.headers.get("content-length", 0)) > self._limits.body_bytes:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.seconds):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self._limits.body_bytes:
                        raise too_large
        except TimeoutError as error:
            message = f"body: expected all of it within {self._limits.seconds:g} s"
            raise HTTPException(408, message, CLOSE) from error
        try:
            content = json.loads(body, parse_constant=_no_number, parse_float=_number)
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, f"body: expected JSON in UTF-8, got what is none: {error}"[:300]) from error
        if b"\\ud" in body.lower():  # half of a pair of surrogates can be written in no answer and no file
            try:
                json.dumps(content, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                raise InputError("body: expected characters of Unicode, found half of a pair of surrogates") from error
        return content

    async def _in_time(self, answer: Awaitable[Any], late: str) -> Any:
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await answer
        except TimeoutError as error:
            raise HTTPException(503, f"not done within {self._limits.seconds:g} s; {late}", RETRY_AFTER) from error

    async def _page(self, _: Request) -> Response:
        neighbours = min(SHOWN_NEIGHBOURS, self._limits.neighbours)
        content = page(self._access.token is not None, self._access.can_edit, neighbours)
        return HTMLResponse(content, headers={"Content-Security-Policy": SECURITY_POLICY, "X-Frame-Options": "DENY"})

    async def _health(self, _: Request) -> Response:
        if self._batcher.has_ended:
            return _error(503, ENDED)
        trouble = {"warning": self._batcher.trouble} if self._batcher.trouble else {}
        return JSONResponse({"status": "ok", "version": self._batcher.version} | trouble)

    async def _read_metrics(self, _: Request) -> Response:
        return Response(self._metrics.text(), media_type=CONTENT_TYPE)

    def _documents(self, given: list[Any]) -> list[Document]:
        if len(given) > self._limits.texts:
            raise InputError(f"texts: expected at most {self._limits.texts} in a request, got {len(given)}")
        documents = [Document.of(text, f"text {number}") for number, text in enumerate(given, start=1)]
        self._check_words(sum(len(document.words) for document in documents))
        return documents

    def _check_words(self, words: int) -> None:
        if words > self._limits.words:
            raise HTTPException(413, f"expected at most {self._limits.words} words in a request, got {words}; send several")

    async def _tag(self, request: Request) -> Response:
        types: dict[str, Any] = {"text": str, "tokens": list, "texts": list, "neighbours": int, "opinions": bool}
        fields = _fields(await self._body(request), types | {"threshold": (int, float, dict)})
        sources = [name for name in ("text", "tokens", "texts") if name in fields]
        if len(sources) != 1:
            raise InputError(f"expected one of text, tokens and texts, got {', '.join(sources) or 'none'}")
        neighbours, threshold = fields.get("neighbours", 0), fields.get("threshold", 0)
        for value in threshold.values() if isinstance(threshold, dict) else ():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise InputError(f"threshold: expected a number for each type, got {json.dumps(value)[:80]}")
        thresholds = check_threshold(threshold, self._batcher.types)
        if not 0 <= neighbours <= self._limits.neighbours:
            raise InputError(f"neighbours: expected 0 to {self._limits.neighbours}, got {neighbours}")
        given = fields[sources[0]]
        documents = self._documents(given if sources[0] == "texts" else [given])
        answer = self._batcher.tag(documents, fields.get("opinions", False), neighbours)
        tagged = await self._in_time(answer, "send less, or try again")
        sentences = [_cut(text, neighbours, thresholds) for text in tagged.texts]
        return JSONResponse({"version": tagged.version, "sentences": sentences})

    async def _log(self, _: Request) -> Response:
        edits = await self._in_time(self._batcher.edit(lambda memory: memory.log()), "try again")
        return JSONResponse({"edits": [_to_dict(edit) for edit in edits]})

    async def _edit(self, make: Callable[[Memory], Edit]) -> Response:
        edit = await self._in_time(self._batcher.edit(make), "the edit may still be made: see /memory/log")
        self._metrics.edits.labels(edit.action).inc()
        return JSONResponse(_to_dict(edit))

    async def _add(self, request: Request) -> Response:
        fields = _fields(await self._body(request), {"sentences": list, "source": str, "who": str})
        pairs = []
        for number, sentence in enumerate(_required(fields, "sentences"), start=1):
            if not isinstance(sentence, dict) or not {"tokens", "ner_tags"} <= sentence.keys():
                raise InputError(f"sentence {number}: expected an object with tokens and ner_tags, got {sentence!r:.80}")
            for name in ("tokens", "ner_tags"):
                if not isinstance(sentence[name], list):
                    raise InputError(f"sentence {number}: {name}: expected a list, got {sentence[name]!r:.80}")
            pairs.append((sentence["tokens"], sentence["ner_tags"]))
        self._check_words(sum(len(tokens) for tokens, _ in pairs))
        source, who = fields.get("source", "server"), fields.get("who")
        return await self._edit(lambda memory: memory.add(pairs, source, who))

    async def _relabel(self, request: Request) -> Response:
        fields, tags = _fields(await self._body(request), {"words": list, "who": str}), {}
        for number, word in enumerate(_required(fields, "words"), start=1):
            if not isinstance(word, dict):
                raise InputError(f"word {number}: expected an object, got {word!r:.80}")
            place = _fields(word, {"sentence_id": int, "word_id": int, "ner_tag": str})
            tags[_required(place, "sentence_id"), _required(place, "word_id")] = _required(place, "ner_tag")
        return await self._edit(lambda memory: memory.relabel(tags, fields.get("who")))

    async def _remove(self, request: Request) -> Response:
        fields = _fields(await self._body(request), {"source": str, "sentence_ids": list, "who": str})
        ids = fields.get("sentence_ids")
        if ids is not None and not all(type(number) is int for number in ids):
            raise InputError(f"sentence_ids: expected integers, got {json.dumps(ids)[:80]}")
        return await self._edit(lambda memory: memory.remove(fields.get("source"), ids, fields.get("who")))

    async def _rollback(self, request: Request) -> Response:
        fields = _fields(await self._body(request), {"version": int, "seen": int, "who": str})
        version, seen = _required(fields, "version"), _required(fields, "seen")

        def roll_back(memory: Memory) -> Edit:
            try:
                if len(memory.log()) == seen:
                    return memory.rollback(version, fields.get("who"))
            except InputError:
                if len(memory.log()) == seen:  # or else another process has edited in between
                    raise
            newest = f"{len(memory.log())}, the newest version"
            raise HTTPException(409, f"seen: expected {newest}, got {seen}; see /memory/log, so that no edit is lost")

        return await self._edit(roll_back)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _number(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{digits[:80]} is too large a number")
    return number
