"""Load a server of a copy of a run with clients that ask, ask wrongly and edit, all at once; then look whether it kept up.

    python -m tools.load_test RUN [--clients 50] [--seconds 60]

RUN is copied, and the copy is served and edited. First one client alone asks for the latency of a single request, and
teaches one sentence after another, each with a request after it, which waits for what an edit leaves to do. Then all
clients ask until the time is over: of ten requests eight are good, one is wrong and one edits. It fails where an answer is
other than the intended one, an acknowledged edit is not in the log, the run reopens with other versions than the log's,
something was compiled, or memory grew. Whether a single request is as fast as was set out for is only noted.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from knn_ner_jax.knn.memory import History
from knn_ner_jax.run_dir import environment

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "serve.json"
SHORT = "Yesterday Angela Merkel met the chairman of Nokia in Helsinki."
TEXTS = (
    SHORT,
    "Paris",
    "The chairman of Nokia, Risto Siilasmaa, said on Monday in Helsinki that the company would close its plant in Salo.",
    "RT @someone: storm Ophelia hits Galway tonight, stay safe everyone!! " * 3,
)
WRONG: tuple[tuple[str, bytes, int], ...] = (
    ("/tag", b"{", 400),
    ("/tag", b'{"text": 3}', 422),
    ("/tag", b'{"text": "a", "neighbours": 1000}', 422),
    ("/nothing", b"{}", 404),
    ("/memory/add", b'{"sentences": [{"tokens": ["a"], "ner_tags": ["X"]}]}', 422),
)
GROWTH = 0.05  # of the resident memory, from the first fifth of the time to its end
SINGLE, SINGLE_EDITS = 200, 20
SINGLE_MS = 30  # that the median of them was set out to take
BUSY = re.compile(r"expected at most \d+ requests to wait")  # `batcher.BusyError`; other answers of 503 are failures


@dataclass
class Record:
    """What clients saw.

    Attributes:
        seconds: of each answer that was as intended, by kind.
        unexpected: answers that were not.
        edits: that were acknowledged: version, source and action.
        busy: answers that said to come again.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: {"good": [], "wrong": [], "edit": []})
    unexpected: list[str] = field(default_factory=list)
    edits: list[tuple[int, str, str]] = field(default_factory=list)
    busy: int = 0

    def add(self, kind: str, response: httpx2.Response, expected: int, seconds: float) -> bool:
        """Note an answer; return whether it was the intended one."""
        if response.status_code == 503 and BUSY.search(response.text):
            self.busy += 1
            return False
        if response.status_code != expected:
            self.unexpected.append(f"{kind}: expected {expected}, got {response.status_code} {response.text[:200]}")
            return False
        self.seconds[kind].append(seconds)
        return True


async def _post(client: httpx2.AsyncClient, path: str, content: bytes) -> tuple[httpx2.Response, float]:
    start = time.perf_counter()
    response = await client.post(path, content=content)
    return response, time.perf_counter() - start


async def _client(number: int, client: httpx2.AsyncClient, record: Record, until: float) -> None:
    draw, own = random.Random(number), list[int]()
    while time.monotonic() < until:
        kind = draw.choices(("good", "wrong", "edit"), (8, 1, 1))[0]
        if kind == "good":
            body = {"text": draw.choice(TEXTS), "neighbours": draw.choice((0, 3)), "opinions": draw.random() < 0.1}
            record.add(kind, *_expecting(await _post(client, "/tag", json.dumps(body).encode()), 200))
        elif kind == "wrong":
            path, content, status = draw.choice(WRONG)
            record.add(kind, *_expecting(await _post(client, path, content), status))
        else:
            source, edited = f"client {number}", dict[str, Any]()
            if own and draw.random() < 0.3:
                path, edited = "/memory/remove", {"sentence_ids": [own.pop()], "who": source}
            else:
                sentence = {"tokens": [f"Word{number}", "won"], "ner_tags": ["B-person", "O"]}
                path, edited = "/memory/add", {"sentences": [sentence], "source": source, "who": source}
            response, seconds = await _post(client, path, json.dumps(edited).encode())
            if record.add(kind, response, 200, seconds):
                edit = response.json()
                record.edits.append((edit["version"], source, edit["action"]))
                if edit["action"] == "add":
                    own.append(edit["first_sentence"])


def _expecting(answer: tuple[httpx2.Response, float], status: int) -> tuple[httpx2.Response, int, float]:
    return answer[0], status, answer[1]


def _quantiles(seconds: list[float]) -> dict[str, float]:
    """Return milliseconds."""
    if not seconds:
        return {}
    values = {"median": 0.5, "p90": 0.9, "p99": 0.99, "largest": 1.0}
    return {"requests": len(seconds)} | {n: round(float(np.quantile(seconds, q)) * 1e3, 1) for n, q in values.items()}


def _number(metrics: str, name: str) -> float:
    match = re.search(rf"^{name} (\S+)$", metrics, re.MULTILINE)
    assert match, name
    return float(match[1])


async def _load(port: int, token: str, clients: int, seconds: float) -> dict[str, Any]:
    record, memory = Record(), list[float]()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    limits = httpx2.Limits(max_connections=clients + 1)
    url = f"http://127.0.0.1:{port}"
    async with httpx2.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=120) as client:

        async def metrics() -> str:
            return (await client.get("/metrics")).text

        # The first edit holds the rows twice for a moment, and the allocator keeps that: it does not grow again.
        edit = {"sentences": [{"tokens": ["a"], "ner_tags": ["O"]}], "source": "first"}
        added = (await client.post("/memory/add", json=edit)).json()
        await client.post("/memory/remove", json={"sentence_ids": [added["first_sentence"]]})
        single = Record()
        for _ in range(SINGLE):
            single.add("good", *_expecting(await _post(client, "/tag", json.dumps({"text": SHORT}).encode()), 200))
        for _ in range(SINGLE_EDITS):
            response, edited = await _post(client, "/memory/add", json.dumps(edit).encode())
            # What is asked next waits for what an edit leaves to do.
            _, tagged = await _post(client, "/tag", json.dumps({"text": SHORT}).encode())
            if single.add("edit", response, 200, edited + tagged):
                await client.post("/memory/remove", json={"sentence_ids": [response.json()["first_sentence"]]})
        until = time.monotonic() + seconds

        async def watch() -> None:
            while time.monotonic() < until:
                memory.append(_number(await metrics(), "process_resident_memory_bytes"))
                await asyncio.sleep(seconds / 50)

        await asyncio.gather(watch(), *(_client(number, client, record, until) for number in range(clients)))
        last = await metrics()
        log = (await client.get("/memory/log")).json()["edits"]
    made = {(edit["version"], edit["who"], edit["action"]) for edit in log}
    begun = max(memory[: max(1, len(memory) // 5)])
    answers = sum(map(len, record.seconds.values()))
    batches = _number(last, "knn_ner_batch_requests_count"), _number(last, "knn_ner_batch_requests_sum")
    single_ms = _quantiles(single.seconds["good"])
    return {
        "rows": int(_number(last, "knn_ner_datastore_rows")),
        "single_ms": single_ms,
        "single_edit_ms": _quantiles(single.seconds["edit"]),
        "single_is_fast": single_ms.get("median", np.inf) <= SINGLE_MS,
        "clients": clients,
        "seconds": seconds,
        "requests_per_second": round(answers / seconds, 1),
        "ms": {kind: _quantiles(values) for kind, values in record.seconds.items()},
        "requests_a_batch": round(batches[1] / batches[0], 2),
        "told_to_come_again": record.busy,
        "unexpected": dict(Counter(single.unexpected + record.unexpected).most_common(5)),
        "edits_acknowledged": len(record.edits),
        "edits_lost": len(set(record.edits) - made),
        "versions": len(log),
        "compilations": int(_number(last, "knn_ner_compilations_total")),
        "resident_mb": {
            "first_fifth": round(begun / 1e6),
            "end": round(memory[-1] / 1e6),
            "largest": round(max(memory) / 1e6),
        },
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def wrong(result: dict[str, Any]) -> dict[str, Any]:
    """Return what was not as intended, by name: answers, edits, versions, compilations, memory."""
    memory, reopened = result["resident_mb"], result["versions_after_reopening"]
    found = {
        "answers": result["unexpected"],
        "edits lost": result["edits_lost"],
        "versions": reopened != result["versions"] and f"{result['versions']} in the log, {reopened} after reopening",
        "compilations": result["compilations"],
        "growth of memory": memory["end"] > (1 + GROWTH) * memory["first_fifth"] and memory,
    }
    return {name: value for name, value in found.items() if value}


def load_test(run: Path, clients: int, seconds: float, output: Path | None) -> dict[str, Any]:
    """Serve a copy of a run, load it, end it, and return what was measured.

    Args:
        run: an evaluated one.
        clients: at the same time.
        seconds: of load.
        output: JSON file to write; None: none.

    Raises:
        SystemExit: something was not as intended (see `wrong`).
    """
    token = secrets.token_urlsafe(24)
    with tempfile.TemporaryDirectory(dir=run.parent) as folder:
        copy = Path(folder) / run.name
        shutil.copytree(run, copy)
        command = [
            sys.executable,
            "-c",
            "from knn_ner_jax import cli; cli.main()",
            "serve",
            str(copy),
            "--edit",
            "--port",
            "0",
        ]
        environ = os.environ | {"KNN_NER_TOKEN": token}
        with subprocess.Popen(command, env=environ, text=True, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            ports = (int(match[1]) for line in process.stdout if (match := re.search(r"http://\S+?:(\d+)/", line)))
            if (port := next(ports, None)) is None:
                raise SystemExit("the server did not start")
            try:
                measured = asyncio.run(_load(port, token, clients, seconds))
            finally:
                process.send_signal(signal.SIGTERM)
        measured["versions_after_reopening"] = History(copy / "datastore").version
    result = {"processor": _processor(), **environment(), **measured}
    if output is not None:
        output.write_text(json.dumps(result, indent=2) + "\n")
    if found := wrong(result):
        raise SystemExit(f"not as intended: {found}")
    return result


def main() -> None:
    """Read the command line, load a server, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    print(json.dumps(load_test(options.run.resolve(), options.clients, options.seconds, options.output), indent=2))


if __name__ == "__main__":
    main()
