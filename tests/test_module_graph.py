"""tools/module_graph.py, on a made-up package."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools import module_graph
from tools.module_graph import Limits, find_imports, find_modules, longest_chain, measure

FILES = {
    "run.py": "from shop.main import sell\n\nsell.main()\n",
    "shop/__init__.py": "",
    "shop/io.py": "import os\n",
    "shop/data/rows.py": "from shop.io import read\n",
    "shop/data/tables.py": "from . import rows\nfrom ..io import write\n",
    "shop/main/sell.py": "def main():\n    import shop.data.tables\n",
    "shop/types.py": "import typing\nif typing.TYPE_CHECKING:\n    from shop.main import sell\nelse:\n    import shop.io\n",
}
CHAIN = ["run", "shop.main.sell", "shop.data.tables", "shop.data.rows", "shop.io"]


@pytest.fixture
def root(tmp_path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


def imports_of(root: Path) -> dict[str, set[str]]:
    modules = find_modules(root, "shop")
    return {module: find_imports(module, path, modules) for module, path in modules.items()}


def test_imports_are_found_in_functions_and_relative_ones_but_not_those_for_types_alone(root):
    assert imports_of(root) == {
        "run": {"shop.main.sell"},
        "shop": set(),
        "shop.io": set(),
        "shop.data.rows": {"shop.io"},
        "shop.data.tables": {"shop.data.rows", "shop.io"},
        "shop.main.sell": {"shop.data.tables"},
        "shop.types": {"shop.io"},
    }


def test_the_longest_chain_begins_at_a_script(root):
    assert longest_chain(imports_of(root)) == CHAIN


def test_modules_lines_and_chain_are_printed(root):
    lines, errors = measure(root, "shop", Limits())
    assert lines == [
        f"modules  6 of at most {module_graph.MODULES}",
        "lines    11: . 6, data 3, main 2",
        f"imports  5 deep of at most 12: {' > '.join(CHAIN)}",
    ]
    assert errors == []


def test_every_limit_that_is_exceeded_is_named(root):
    assert measure(root, "shop", Limits(modules=6, chain=5, lines=5)).errors == []
    assert measure(root, "shop", Limits(modules=5, chain=4, lines=4)).errors == [
        "expected at most 5 modules in shop, got 6",
        "expected imports at most 4 deep, got 5",
        "shop/types.py: expected at most 4 lines, got 5",
    ]


def test_modules_that_import_one_another_are_an_error(root):
    (root / "shop" / "io.py").write_text("def read():\n    from shop.data import tables\n")
    [error] = measure(root, "shop", Limits()).errors
    assert error.startswith("modules import one another: ")
    assert {"shop.io", "shop.data.tables"} <= set(error.removeprefix("modules import one another: ").split(" > "))


def test_the_command_fails_above_a_limit(root):
    for number in range(module_graph.MODULES):
        (root / "shop" / f"more{number}.py").touch()
    command = [sys.executable, module_graph.__file__, "--root", str(root), "--package", "shop"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    limit, number = module_graph.MODULES, module_graph.MODULES + 6
    assert result.stdout.startswith(f"modules  {number} of at most {limit}\n")
    assert result.stderr == f"expected at most {limit} modules in shop, got {number}\n"
