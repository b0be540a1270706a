"""The examples run as they stand."""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from helpers import script_process

import knn_ner_jax as kn

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def run_example(name: str, *arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def test_tag_text_prints_labels_entities_and_neighbours(evaluated, monkeypatch, capsys):
    monkeypatch.chdir(evaluated)
    run_example("tag_text", str(evaluated / "run"))
    lines = capsys.readouterr().out.splitlines()
    sentences = [line for line in lines if not line.startswith(" ")]
    assert [line.split()[0].split("/")[0] for line in sentences] == ["Nokia", "Words"]
    entities = [line for line in lines if re.match(r"  \d+ to \d+: ", line)]
    assert sum(line.startswith("    similarity ") for line in lines) == 3 * len(entities)


def test_tag_text_without_a_run_says_what_it_expects():
    with pytest.raises(SystemExit, match="expected the folder of an evaluated run"):
        run_example("tag_text")


def test_exact_search_finds_the_keys_that_the_queries_were_made_of(capsys):
    main = runpy.run_path(str(EXAMPLES / "exact_search.py"))["main"]
    main(num_keys=2_000)
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["key 3", "key 1000", "key 1999"]


def test_another_combiner_is_fitted_to_made_up_words_and_says_what_it_selected(capsys):
    run_example("new_combiner")
    assert re.fullmatch(
        r"selected {'power': .*}; words labelled correctly: tagger \d+%, combined \d+%\n", capsys.readouterr().out
    )


def test_python_in_the_readme_runs_as_written(evaluated, copy_of, tmp_path, capsys):
    results = copy_of(evaluated) / "run" / "eval.json"
    read = json.loads(results.read_text(encoding="utf-8"))
    read["selected"] |= {"k": 1, "knn_weight": 1.0}
    results.write_text(json.dumps(read), encoding="utf-8")
    # So that there are entities to print: the tiny tagger finds none by itself.
    taught = ["Angela", "Merkel", "met", "Nokia"], ["B-PER", "I-PER", "O", "B-ORG"]
    kn.load("run").memory.add([taught], source="readme")
    code = "".join(re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S))
    assert "runs/quickstart" in code
    (tmp_path / "readme.py").write_text(code.replace("runs/quickstart", "run"), encoding="utf-8")
    names = runpy.run_path(str(tmp_path / "readme.py"))
    lines = capsys.readouterr().out.splitlines()
    assert [re.split(r" [01]\.", line)[0] for line in lines][:2] == ["PER Angela Merkel", "ORG Nokia"]
    assert names["ids"].tolist() == [[1, 2]]
    assert names["similarities"].tolist() == [pytest.approx([1, 0.6])]


SAID = {  # a part of what each command of the README prints, whatever the run
    "predict runs/quickstart --format jsonl": '{"id": 7, "text": "Angela Merkel met Nokia in Helsinki.", "tokens": ',
    "predict runs/quickstart --neighbours 0": "entities left out for their scores: ",
    "memory": "sentences, 7 words  from corrections.conll",
    "predict runs/quickstart --neighbours 1": "Ministers spoke at the ",
    "audit": "wrote runs/quickstart/audit/audit.jsonl",
    "export": "my_program/program.jax_export: ",
    "cd my_program && python example.py": "Helsinki",
}


@pytest.mark.slow
def test_shell_commands_in_the_readme_run_as_written(evaluated, copy_of, tmp_path):
    for extra in "flatbuffers", "uvicorn":
        pytest.importorskip(extra)
    folder = copy_of(evaluated)
    shutil.copytree("run", "runs/quickstart")
    words = (
        ("Leaders", "O"),
        ("gather", "O"),
        ("for", "O"),
        ("the", "O"),
        ("Davos", "B-EVENT"),
        ("Forum", "I-EVENT"),
        (".", "O"),
    )
    Path("corrections.conll").write_text("".join(f"{word}\t{tag}\n" for word, tag in words), encoding="utf-8")
    for name, arguments in (("knn-ner", "-c 'from knn_ner_jax import cli; cli.main()'"), ("python", "")):
        (program := tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    variables = script_process.environment(1)
    variables |= {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    how = {"cwd": folder, "env": variables, "text": True, "stdout": subprocess.PIPE}
    lines = re.findall(r"^\$ (.*)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    (serve,), (ask,) = ([line for line in lines if line.startswith(name)] for name in ("knn-ner serve", "curl"))
    commands = [line for line in lines if line not in (serve, ask)]
    for command, (beginning, said) in zip(commands, SAID.items(), strict=True):
        assert beginning in command
        done = subprocess.run(["sh", "-c", command], check=False, stderr=subprocess.STDOUT, **how)
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        assert said in done.stdout, f"{command}\n{done.stdout}"
    with subprocess.Popen([*shlex.split(serve), "--port", "0"], **how) as server:
        try:
            address = next(match[0] for line in server.stdout if (match := re.search(r"http://127\.0\.0\.1:\d+/", line)))
            with urllib.request.urlopen(f"{address}health", timeout=60) as health:
                assert json.load(health) == {"status": "ok", "version": 1}  # what was taught above
            if shutil.which("curl"):
                answer = subprocess.run(ask.replace("http://127.0.0.1:8000/", address), shell=True, check=True, **how).stdout
                assert answer.startswith('{"version":1,"sentences":[{"text":"Angela Merkel met Nokia in Helsinki.",')
        finally:
            server.terminate()
