"""What dev chose, and whether that is the end of what was offered."""

import pytest

from knn_ner_jax.ablation.settings import chosen


@pytest.mark.parametrize(("k", "said"), [(8, "8 (smallest offered)"), (64, "64"), ("all", "all (largest offered)")])
def test_all_is_the_largest_k(k, said):
    trials = [{"k": each, "temperature": 0.1, "knn_weight": 0.5} for each in ("all", 64, 8)]
    found = chosen({"selected": trials[0] | {"k": k, "metric": "l2"}, "trials": trials})
    assert found == {"k": said, "temperature": "0.1", "knn_weight": "0.5", "metric": "l2"}
