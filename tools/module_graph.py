"""Print the size of the package and its longest chain of imports, and fail where a limit is exceeded: `make house`.

An import counts wherever it stands, in a function too, but not under TYPE_CHECKING; the scripts at the top level count as
links of a chain, not as modules of the package.
"""

import argparse
import ast
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

# Twelve folders of about seven modules: each can still be read as a list. One more format or encoder is one more module.
MODULES = 85
CHAIN = 12
LINES = 400


class Limits(NamedTuple):
    """The most that passes: modules of the package, links of an import chain, lines of a file."""

    modules: int = MODULES
    chain: int = CHAIN
    lines: int = LINES


class Report(NamedTuple):
    """What is printed, and what exceeds a limit."""

    lines: list[str]
    errors: list[str]


def find_modules(root: Path, package: str) -> dict[str, Path]:
    """Return the file of every module of the package and of every script beside it, by the name it is imported by."""
    files = {path: path.relative_to(root).with_suffix("").parts for path in sorted((root / package).rglob("*.py"))}
    modules = {".".join(parts).removesuffix(".__init__"): path for path, parts in files.items()}
    return modules | {path.stem: path for path in sorted(root.glob("*.py"))}


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for statement in node.orelse:
                yield statement
                yield from _statements(statement)
        else:
            yield node
            yield from _statements(node)


def find_imports(module: str, path: Path, modules: Mapping[str, Path]) -> set[str]:
    """Return the names of those `modules` that a module imports."""
    names = set()
    for node in _statements(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")
            if path.stem != "__init__":
                parents.pop()
            base = (
                ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])
                if node.level
                else node.module
            )
            submodules = {f"{base}.{alias.name}" for alias in node.names}
            names |= submodules & modules.keys()
            if not submodules <= modules.keys():
                names.add(str(base))
    return (names & modules.keys()) - {module}


def longest_chain(imports: Mapping[str, set[str]]) -> list[str]:
    """Return the longest chain of modules each of which imports the next one.

    Raises:
        CycleError: modules import one another.

    >>> longest_chain({"cli": {"config", "io"}, "config": {"io"}, "io": set()})
    ['cli', 'config', 'io']
    """
    chains: dict[str, list[str]] = {}
    for module in TopologicalSorter({name: sorted(others) for name, others in imports.items()}).static_order():
        below = max((chains[other] for other in sorted(imports[module])), key=len, default=[])
        chains[module] = [module, *below]
    return max((chains[module] for module in sorted(chains)), key=len, default=[])


def measure(root: Path, package: str, limits: Limits) -> Report:
    """Measure a package below `root`."""
    modules = find_modules(root, package)
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules.values()}
    files = [path for path in lengths if path.is_relative_to(root / package)]
    errors = []
    try:
        chain = longest_chain({module: find_imports(module, path, modules) for module, path in modules.items()})
    except CycleError as error:
        chain = []
        errors.append(f"modules import one another: {' > '.join(reversed(error.args[1]))}")
    by_folder: dict[str, int] = {}
    for path in files:
        folder = path.relative_to(root / package).parts[0] if path.parent != root / package else "."
        by_folder[folder] = by_folder.get(folder, 0) + lengths[path]
    report = [
        f"modules  {len(files)} of at most {limits.modules}",
        f"lines    {sum(lengths[path] for path in files)}: "
        + ", ".join(f"{name} {count}" for name, count in by_folder.items()),
        f"imports  {len(chain)} deep of at most {limits.chain}: {' > '.join(chain)}",
    ]
    if len(files) > limits.modules:
        errors.append(f"expected at most {limits.modules} modules in {package}, got {len(files)}")
    if len(chain) > limits.chain:
        errors.append(f"expected imports at most {limits.chain} deep, got {len(chain)}")
    for path, length in lengths.items():
        if length > limits.lines:
            errors.append(f"{path.relative_to(root)}: expected at most {limits.lines} lines, got {length}")
    return Report(report, errors)


def main() -> None:
    """Print the report of this repository, or of another folder and package; exit with 1 where a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent, help="the folder that holds the package")
    parser.add_argument("--package", default="knn_ner_jax")
    options = parser.parse_args()
    report = measure(options.root, options.package, Limits())
    print("\n".join(report.lines))
    if report.errors:
        sys.exit("\n".join(report.errors))


if __name__ == "__main__":
    main()
