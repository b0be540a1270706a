"""What a server counts, for Prometheus: requests, batches, edits, compilations, the datastore and the process."""

import jax
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

COMPILED = "/jax/core/compile/backend_compile_duration"  # of programs that are read from the cache, too
SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
BATCH = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The numbers of one server, under names that begin with `knn_ner_`.

    Attributes:
        requests: answered, by path and status.
        seconds: from the first byte of a request's body to its answer, by path.
        batch_requests: requests that were tagged together.
        sentences: texts that were tagged.
        edits: acknowledged, by action.
        compilations: programs that were compiled, or read from the cache, since the server was ready.
        waiting: requests that no thread has begun.
        tags: 1 while a thread tags and edits; 0 before and after.
        rows: of the datastore.
        version: of the datastore.
    """

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("knn_ner_requests", "Requests answered.", ["path", "status"], registry=registry)
        self.seconds = Histogram(
            "knn_ner_request_seconds", "Time of a request.", ["path"], buckets=SECONDS, registry=registry
        )
        self.batch_requests = Histogram("knn_ner_batch_requests", "Tagged at once.", buckets=BATCH, registry=registry)
        self.sentences = Counter("knn_ner_sentences", "Texts tagged.", registry=registry)
        self.edits = Counter("knn_ner_edits", "Edits acknowledged.", ["action"], registry=registry)
        self.compilations = Counter("knn_ner_compilations", "Programs compiled since the start.", registry=registry)
        self.waiting = Gauge("knn_ner_waiting_requests", "Requests in the queue.", registry=registry)
        self.tags = Gauge("knn_ner_tags", "Whether texts are tagged and edits made.", registry=registry)
        self.rows = Gauge("knn_ner_datastore_rows", "Rows of the datastore.", registry=registry)
        self.version = Gauge("knn_ner_datastore_version", "Version of the datastore.", registry=registry)

    def count_compilations(self) -> None:
        """Count what is compiled from now on."""

        def count(event: str, duration_secs: float, **_: str | int) -> None:
            if event == COMPILED:
                self.compilations.inc()

        jax.monitoring.register_event_duration_secs_listener(count)

    def text(self) -> bytes:
        """Return all numbers in Prometheus' text format."""
        return generate_latest(self._registry)
