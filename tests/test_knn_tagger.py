"""What is decided when a trained tagger and a datastore are opened."""

import jax
import pytest

from knn_ner_jax.knn_tagger import resolve_search_dtype


@pytest.mark.parametrize(("backend", "automatic"), [("cpu", "float32"), ("gpu", "bfloat16"), ("tpu", "bfloat16")])
def test_accelerators_scan_in_bfloat16_unless_told_otherwise(monkeypatch, backend, automatic):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert resolve_search_dtype("auto") == automatic
    assert [resolve_search_dtype(scan) for scan in ("float32", "bfloat16")] == ["float32", "bfloat16"]
