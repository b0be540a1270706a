"""README and docs: generated parts are up to date, links lead somewhere, README keeps its length, commands parse."""

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import make_configuration, make_images
from knn_ner_jax import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "benchmarks" / "README.md", ROOT / "tools" / "README.md", *sorted((ROOT / "configs").rglob("README.md"))]
OWN_FILES = "my.yaml", "runs/mine/config.yaml", "runs/other/config.yaml"  # which are the reader's
STANDS_FOR = dict.fromkeys(OWN_FILES, "configs/quickstart.yaml")
STANDS_FOR |= {"STUDY.yaml": "configs/ablations/demo.yaml", "FORMAT": "conll2012"}
COMMAND = re.compile(r"[^#]*?(?<![\w-])(?:knn-ner |(?=(?:train|eval|predict|export|ablate)\.py ))(.*)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")


def anchors(page: Path) -> set[str]:
    """The names that a Markdown page gives its headings on GitHub."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path):
    for match in LINK.finditer(page.read_text(encoding="utf-8")):
        target, _, anchor = (match[1] or match[2]).partition("#")
        if "://" in target:
            continue
        path = page.parent / target if target else page
        assert path.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(path), f"{page}: {target}#{anchor}"


def test_every_page_of_docs_can_be_reached_from_the_readme():
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop().resolve()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        targets = [(match[1] or match[2]).partition("#")[0] for match in LINK.finditer(page.read_text(encoding="utf-8"))]
        waiting += [page.parent / target for target in targets if target and "://" not in target]
    assert {path.resolve() for path in (ROOT / "docs").glob("*.md")} <= seen


def test_the_readme_has_at_most_230_lines():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 230


def test_the_page_of_settings_is_that_of_the_dataclasses():
    assert make_configuration.PAGE.read_text(encoding="utf-8") == make_configuration.page(), (
        "python -m docs.make_configuration"
    )


def test_the_pictures_are_those_that_their_script_draws():
    for name, svg in make_images.images().items():
        assert (make_images.FOLDER / name).read_text(encoding="utf-8") == svg, "python -m docs.make_images"


def test_code_in_the_pages_names_modules_that_exist():
    for page in PAGES:
        for name in re.findall(r"`((?:knn_ner_jax/)?(?:\w+/)*\w+\.py)`", page.read_text(encoding="utf-8")):
            places = [ROOT / name, ROOT / "knn_ner_jax" / name, page.parent / name]
            is_foreign = page.name == "paper.md"  # it also names files of the authors' repository
            assert is_foreign or any(place.exists() for place in places), f"{page}: {name}"


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command of the package in the code of a page, from its name on."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in "\n".join(re.findall(r"^```\w*\n.*?^```|^ {4}.*?$", text, re.MULTILINE | re.DOTALL)).splitlines():
        if match := COMMAND.match(line):
            is_quoted = match[1].count('"') % 2  # with what stands before it: the end of that
            lexer = shlex.shlex(match[1].rstrip('"' * is_quoted), posix=True, punctuation_chars=True)  # without comments
            lexer.whitespace_split = True
            name, *words = itertools.takewhile(lambda word: word not in ("|", ">", ";"), lexer)
            yield [name.removesuffix(".py"), *(STANDS_FOR.get(word, word) for word in words)]


class Understood(Exception):
    """Raised in place of running a command whose arguments have been read."""


WITH_COMMANDS = [page for page in PAGES if any(commands(page))]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_pages_have_the_arguments_that_they_are_given(page: Path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)

    def only(read):
        def read_and_stop(*arguments):
            read(*arguments)
            raise Understood

        return read_and_stop

    for parser, name in itertools.product((cli.Parser, cli.ConfigParser), ("parse_args", "parse_intermixed_args")):
        monkeypatch.setattr(parser, name, only(getattr(parser, name)))
    for name, *arguments in commands(page):
        with pytest.raises((Understood, SystemExit)) as end:
            cli.run(name, f"knn-ner {name}", arguments)
        if end.type is SystemExit:
            assert "--help" in arguments, f"{page}: {shlex.join([name, *arguments])}: {capsys.readouterr().err}"
