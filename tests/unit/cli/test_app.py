"""The front door: one app, the same verbs by `sau` and `python -m sau`, and the six calls of `import sau`."""

import copy
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sau
from sau.cli.app import ADDING, OF_A_CHECKOUT, main
from sau.data.demo import demo_rows
from sau.data.records import write_shards
from sau.data.sets import Sets
from sau.errors import ConfigError
from sau.mask import check_mask, sparsity

ROOT = Path(__file__).resolve().parents[3]


def test_the_surface_is_pinned():
    assert sorted(sau.__all__) == ["export", "open", "prune", "save", "unlearn", "verify"]
    with pytest.raises(AttributeError, match="no attribute 'forget'"):
        vars(sau)["__getattr__"]("forget")


def test_importing_it_loads_nothing_heavy():
    code = "import sys, sau, sau.cli; print(*{'torch', 'transformers', 'flows', 'tasks'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_six_calls_make_a_model_forget(tiny, tmp_path):
    base = tiny(num_layers=1)
    sau.save(base, tmp_path / "dense")
    lm = sau.open(tmp_path / "dense")
    sets = Sets(*(demo_rows(who, seed=1) for who in "abc"))
    sau.prune(lm, sets.retain, pruner="magnitude", structure="2:4")
    assert sparsity(lm.mask) == 0.5
    history = sau.unlearn(lm, sets, base=copy.deepcopy(base), objective="npo", max_steps=2, stop=None)
    assert history.steps == 2
    check_mask(lm.model, lm.mask)
    saved = sau.save(lm, tmp_path / "sparse", structure="2:4", compression="zstd")
    sau.export(tmp_path / "sparse", tmp_path / "exported")
    assert sau.open(tmp_path / "exported").mask is None
    for part, rows in sets.items():
        write_shards(rows, tmp_path / part)
    verdict = sau.verify(tmp_path / "sparse", tmp_path / "forget", tmp_path / "retain", policy="quick")
    assert (verdict.verdict, verdict.weights_digest) == ("INCONCLUSIVE", saved.weights_digest)


def test_the_readmes_lines_run(tiny, tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    assert 8 <= len(code.strip().splitlines()) <= 12
    sau.save(tiny(num_layers=1), tmp_path / "model")
    for part, people in (("forget", "a"), ("retain", "bc"), ("holdout", "de"), ("judges", "fg")):
        (file,) = write_shards(
            [{**row, "subject_id": part} for who in people for row in demo_rows(who, seed=1)[:6]], tmp_path
        )
        (tmp_path / "rows").mkdir(exist_ok=True)
        file.rename(tmp_path / "rows" / f"{part}.jsonl")
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(code.replace("/models/my-llama", "model").replace("/models/my-base", "model"), found)
    assert found["verdict"].verdict in ("FAIL", "INCONCLUSIVE")
    assert sau.open("dense-folder").mask is None


def test_a_misspelt_parameter_is_named():
    with pytest.raises(ConfigError, match="did you mean 'npo'"):
        sau.unlearn(None, Sets([], []), objective="npoo")
    with pytest.raises(ConfigError, match="sparsty"):
        sau.prune(None, [], sparsty=0.5)


def test_a_checkouts_commands_are_those_that_the_library_names():
    code = """
import flows.cli
from sau.cli import app
names = {c.name or c.callback.__name__ for c in app.registered_commands} | {g.name for g in app.registered_groups}
print(*sorted(names - {"certificate", "export", "restore", "stage", "verify"}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert tuple(done.stdout.split()) == OF_A_CHECKOUT


def test_both_entries_are_one_door():
    described = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert described["scripts"] == {"sau": "sau.cli:main"}
    assert described["entry-points"] == {ADDING: {"checkout": "flows.cli"}}
    help_texts = [
        subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for command in ([sys.executable, "-m", "sau"], [str(Path(sys.executable).parent / "sau")])
    ]
    assert help_texts[0].replace("python -m sau", "sau") == help_texts[1]
    for name in OF_A_CHECKOUT:
        assert name in help_texts[0]


def test_help_outside_a_checkout(tmp_path):
    done = subprocess.run([sys.executable, "-m", "sau", "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    refused = subprocess.run(
        [sys.executable, "-m", "sau", "request", "list"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (refused.returncode, len(refused.stderr.strip().splitlines())) == (1, 1)
    assert "not inside a checkout" in refused.stderr


def test_an_error_is_one_line_whatever_the_path_in_it_holds(monkeypatch, capsys):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["sau", "certificate", "show", "a\nb\x1b[2J[bold]\u202ec"])
    with pytest.raises(SystemExit, match="1"):
        main()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "\x1b" not in said
    assert "a b\\x1b[2J[bold]\\x202ec" in said
