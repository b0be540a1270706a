"""The examples in docstrings run, and give what they say."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest

from tools.module_graph import find_modules

ROOT = Path(__file__).parent.parent
BESIDE_AN_EXPORT = "knn_ner_jax.deploy.example"  # the one place where it runs
MODULES = [*sorted(find_modules(ROOT, "knn_ner_jax").keys() - {BESIDE_AN_EXPORT}), "tools.module_graph"]


class Finder(doctest.DocTestFinder):
    """Finds the examples of decorated functions, too, which all are whose annotations are checked in tests."""

    def _from_module(self, module, object):
        return super()._from_module(module, inspect.unwrap(object))


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_are_right(name, tmp_path, monkeypatch):
    module = importlib.import_module(name)
    tests = {test.docstring: test for test in Finder().find(module)}.values()  # a function may stand beside its jitted self
    assert sum(len(test.examples) for test in tests) == len(re.findall(r"^ *>>> ", inspect.getsource(module), re.MULTILINE))
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in tests:
        runner.run(test)
    assert runner.summarize().failed == 0
