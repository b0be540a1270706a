"""What dev chose, and whether that is the end of what was offered."""

import pytest

from knn_ner_jax.ablation.analysis import describe_chosen, describe_seeds, mean_over_seeds

FIXED = {"temperature": 0.1, "knn_weight": 0.5}


@pytest.mark.parametrize(
    ("name", "offered", "value", "said"),
    [
        ("k", ("all", 64, 8), 8, "8*"),
        ("k", ("all", 64, 8), 64, "64"),
        ("k", ("all", 64, 8), "all", "all"),  # there are no more
        ("k", (64, 1), 64, "64*"),
        ("k", (64, 1), 1, "1"),
        ("temperature", (0.1, 1.0), 1.0, "1.0*"),
        ("knn_weight", (0.1, 0.9, 1.0), 0.1, "0.1*"),
        ("knn_weight", (0.1, 0.9, 1.0), 1.0, "1.0"),
        ("knn_weight", (0.9,), 0.9, "0.9"),  # there was nothing to choose from
    ],
)
def test_what_has_values_beyond_it_that_were_not_offered_is_marked(name, offered, value, said):
    trials = [{"k": 4} | FIXED | {name: each} for each in offered]
    found = describe_chosen({"selected": {"k": 4} | FIXED | {name: value, "metric": "l2"}, "trials": trials})
    assert found == {"k": "4", "temperature": "0.1", "knn_weight": "0.5", "metric": "l2"} | {name: said}


def test_seeds_that_agree_are_said_once():
    first, other = ({"k": k, "temperature": "0.1*", "knn_weight": "1.0", "metric": "cosine"} for k in ("8", "all"))
    assert describe_seeds([first, other]) == ["8; all", "0.1*", "1.0", "cosine"]


def test_a_settings_f1_is_the_mean_over_seeds_where_all_have_tried_it():
    setting = {"k": "all", "temperature": 0.1, "knn_weight": 0.5, "metric": "l2"}
    first, second = ({"f1": f1, "precision": 1.0} for f1 in (40.0, 50.0))
    other = {"f1": 30.0} | setting | {"k": 8}
    means = mean_over_seeds([[setting | first, other], [setting | second]])
    assert means == [setting | {"f1": 45.0}]
