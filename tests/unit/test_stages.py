"""The recipe's steps: in a folder without DVC, in both orders of pruning and unlearning, and as dvc.yaml has them."""

import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sau.checkpoint.digests import dense_digest
from sau.checkpoint.export import export
from sau.checkpoint.manifest import read_manifest
from sau.checkpoint.sparse import open_sparse
from sau.config import merge, read_yaml
from sau.data.demo import demo_rows
from sau.data.records import write_shards
from sau.errors import ConfigError, ModelError
from sau.mask import check_mask, check_structure
from sau.models.scoring import answer_logps
from sau.params import command_of
from sau.stages import RECIPES, STAGES, read_split, run
from sau.training import resume

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "model": {
        "tiny": {
            "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_layers": 2, "num_heads": 2,
            "pretrain_people": 8,
        }
    },
    "train": {"epochs": 50, "lr": 0.006},
    "recover": {"epochs": 15, "lr": 0.006},
    "unlearn": {"max_steps": 24, "lr": 0.003, "paraphrases": False, "stop": {"eval_every": 4}},
}  # fmt: skip


def parameters(folder: Path, **unlearn) -> None:
    params = merge(read_yaml(ROOT / "params.yaml"), merge(SMALL, {"unlearn": unlearn}))
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def mean_logp(folder: Path, people: list[str]) -> float:
    lm = open_sparse(folder)
    rows = [row for person in people for row in demo_rows(person, seed=0)]
    return float(sum(logp.mean() for logp in answer_logps(lm.model, lm.encode(rows))) / len(rows))


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    parameters(folder)
    for part, people in (("train", ["a", "b", "c"]), ("holdout", ["x", "y"])):
        write_shards([row for person in people for row in demo_rows(person, seed=0)], folder / "data" / part)
    for stage in RECIPES["bootstrap"]:
        run(stage, folder)
    return folder


@pytest.fixture
def forget(first, tmp_path) -> Path:
    """A forget version's inputs, as a flow lays them out."""
    shutil.copytree(first / "data", tmp_path / "data")
    shutil.copytree(first / "checkpoint", tmp_path / "parent")
    shutil.copytree(first / "artifacts" / "base", tmp_path / "base")
    shutil.copytree(first / "artifacts" / "dense", tmp_path / "dense")
    (tmp_path / "forget").mkdir()
    (tmp_path / "data" / "train" / "a.jsonl").rename(tmp_path / "forget" / "a.jsonl")
    return tmp_path


@pytest.mark.long
@pytest.mark.parametrize("structure", ["unstructured", "2:4"])
def test_two_processes_prune_to_the_mask_of_one(first, tmp_path, structure):
    made = {}
    for processes in (1, 2):
        folder = shutil.copytree(first, tmp_path / str(processes))
        params = read_yaml(folder / "params.yaml")
        params["prune"] |= {"structure": structure, "processes": processes, "calibration_rows": 21}
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
        starter = command_of("prune", processes).split()
        words = starter[1:] if processes == 1 else ["-m", "torch.distributed.run", *starter[1:]]
        done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        made[processes] = json.loads((folder / "metrics" / "prune.json").read_text())
    assert made[1] == made[2]
    assert made[1]["num_calibration_rows"] == 21
    with pytest.raises(ConfigError, match=r"runs on 2 \(prune.processes\), not 1"):
        run("prune", folder)


@pytest.mark.parametrize("order", ["prune-unlearn", "unlearn-prune"])
def test_both_orders_forget_on_the_parents_mask(first, forget, order):
    parameters(forget, order=order)
    for stage in RECIPES["forget"]:
        run(stage, forget)
    parent, version = read_manifest(forget / "parent"), read_manifest(forget / "checkpoint")
    assert version.mask_digest == parent.mask_digest
    assert version.weights_digest != parent.weights_digest
    lm = open_sparse(forget / "checkpoint")
    check_mask(lm.model, lm.mask)
    before, after = (mean_logp(forget / name, ["a"]) for name in ("parent", "checkpoint"))
    assert after < before - 0.05
    trajectory = json.loads((forget / "metrics" / "unlearn.json").read_text())["trajectory"]
    assert {"forget_logp", "retain_logp", "holdout_logp", "target_logp"} <= trajectory[-1].keys()


def test_unlearning_is_not_shown_the_people_that_are_spared(forget):
    parameters(forget)
    run("snapshot", forget)
    shown, judged = (read_split(forget, half) for half in ("calibrate", "judge"))
    assert not shown.spared
    assert not judged.spared, "of two people a fifth is nobody"
    (forget / "params.yaml").write_text((forget / "params.yaml").read_text().replace("spare: 0.2", "spare: 0.5"))
    assert run("snapshot", forget)["num_people_spared"] == 1
    shown, judged = (read_split(forget, half) for half in ("calibrate", "judge"))
    assert {row["subject_id"] for row in shown.retain} | judged.spared == {"b", "c"}
    assert {row["subject_id"] for row in shown.retain} & judged.spared == set()
    assert {row["subject_id"] for row in judged.retain} == {"b", "c"}


def test_unlearn_prune_starts_from_the_dense_model(forget):
    """The dense model answers better than the pruned one, and that is where its trajectory begins."""
    started = {}
    for order in ("prune-unlearn", "unlearn-prune"):
        parameters(forget, order=order, max_steps=1, fade_steps=1)
        run("snapshot", forget)
        run("unlearn", forget)
        started[order] = json.loads((forget / "metrics" / "unlearn.json").read_text())["trajectory"][0]["forget_logp"]
    assert started["prune-unlearn"] == pytest.approx(mean_logp(forget / "parent", ["a"]), abs=1e-3)
    assert abs(started["unlearn-prune"] - started["prune-unlearn"]) > 1e-3


# -- a model that exists already ------------------------------------------------------------------


@pytest.fixture
def given(first, tmp_path):
    """A folder with a served model, sparse or dense, and rows."""

    def make(of: str) -> Path:
        folder = tmp_path / "adopt"
        shutil.copytree(first / "data", folder / "data")
        if of == "sparse":
            export(first / "checkpoint", folder / "model", dtype="bfloat16", rounding="nearest")
        else:
            shutil.copytree(first / "artifacts" / "dense", folder / "model")
        return folder

    return make


def laid_over(folder: Path, params: dict) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(merge(merge(read_yaml(ROOT / "params.yaml"), SMALL), params)))


def forget_from(adopted: Path, folder: Path) -> Path:
    """A forget version's inputs where the base is not known."""
    shutil.copytree(adopted / "data", folder / "data")
    shutil.copytree(adopted / "checkpoint", folder / "parent")
    (folder / "forget").mkdir()
    (folder / "data" / "train" / "a.jsonl").rename(folder / "forget" / "a.jsonl")
    return folder


def test_a_sparse_model_is_adopted_as_it_is_and_forgets_without_a_base(given, tmp_path):
    folder = given("sparse")
    laid_over(folder, {"package": {"dtype": "bfloat16"}})
    metrics = run("adopt", folder)
    assert (metrics["found_mask"], metrics["sparsity"]) == (1, 0.5)
    assert metrics["adopted"] == dense_digest(folder / "model")
    assert "mean log-probability of an answer token over" in metrics["prompt"]
    assert metrics["prompt_holds"] in (0, 1)
    assert metrics["train_logp"] > metrics["holdout_logp"] + 0.5
    told = json.loads((folder / "artifacts" / "zeros.json").read_text())
    assert told["mask_digest"] == read_manifest(folder / "checkpoint").mask_digest
    assert {zeros["sparsity"] for zeros in told["matrices"].values()} == {0.5}
    export(folder / "checkpoint", tmp_path / "back")
    assert dense_digest(tmp_path / "back") == metrics["adopted"]

    later = forget_from(folder, tmp_path / "forget")
    laid_over(later, {"package": {"dtype": "bfloat16"}, "unlearn": {"max_steps": 8}})
    for stage in RECIPES["forget"]:
        run(stage, later)
    assert read_manifest(later / "checkpoint").mask_digest == told["mask_digest"]
    assert mean_logp(later / "checkpoint", ["a"]) < mean_logp(later / "parent", ["a"]) - 0.05


def test_a_dense_model_is_adopted_without_a_mask_and_pruned_where_that_is_asked_for(given):
    folder = given("dense")
    laid_over(folder, {})
    assert run("adopt", folder)["found_mask"] == 0
    dense = read_manifest(folder / "checkpoint")
    assert (dense.structure, dense.sparsity, open_sparse(folder / "checkpoint").mask) == ("dense", 0.0, None)
    laid_over(folder, {"adopt": {"prune": True}, "prune": {"structure": "2:4"}})
    run("adopt", folder)
    assert (read_manifest(folder / "checkpoint").structure, read_manifest(folder / "checkpoint").sparsity) == (
        "2:4",
        0.5,
    )


@pytest.mark.long
@pytest.mark.parametrize("order", ["prune-unlearn", "unlearn-prune"])
def test_a_model_that_was_adopted_dense_is_pruned_by_its_first_request(given, tmp_path, order):
    folder = given("dense")
    laid_over(folder, {})
    run("adopt", folder)
    later = forget_from(folder, tmp_path / "forget")
    laid_over(later, {"prune": {"structure": "2:4"}, "unlearn": {"order": order, "fade_steps": 4}})
    for stage in RECIPES["forget"]:
        run(stage, later)
    assert read_manifest(later / "checkpoint").structure == "2:4"
    lm = open_sparse(later / "checkpoint")
    check_mask(lm.model, lm.mask)
    check_structure(lm.mask, "2:4")
    assert mean_logp(later / "checkpoint", ["a"]) < mean_logp(later / "parent", ["a"]) - 0.05


def test_a_reference_of_an_adopted_line_is_what_the_users_command_makes(first, tmp_path):
    shutil.copytree(first / "data", tmp_path / "data")
    export(first / "checkpoint", tmp_path / "theirs")
    for command, why in (
        (None, "there is no train.command"),
        ("train.sh {rows}", "placeholders {data}, {base}, {out}"),
        ("no-such-command-here {out}", "no-such-command-here"),
        ("false", "exit code 1"),
        ("true", "model: not a folder|no model.safetensors"),
    ):
        laid_over(tmp_path, {"train": {"command": command}})
        with pytest.raises((ConfigError, ModelError), match=why):
            run("retrain", tmp_path)
    laid_over(tmp_path, {"train": {"command": f"cp -r {tmp_path / 'theirs'} {{out}}"}})
    for stage in RECIPES["retrain"]:
        run(stage, tmp_path)
    made, theirs = (read_manifest(place / "checkpoint").mask_digest for place in (tmp_path, first))
    assert made == theirs


# -- the same steps in dvc.yaml ---------------------------------------------------------------------


FILES = {"bootstrap": "dvc.yaml"} | {recipe: f"dvc.{recipe}.yaml" for recipe in ("forget", "adopt", "retrain")}


@pytest.mark.parametrize(("recipe", "file"), FILES.items())
def test_dvc_runs_the_recipes_steps_in_order_and_nothing_else(recipe, file):
    stages = yaml.safe_load((ROOT / file).read_text())["stages"]
    assert tuple(stages) == RECIPES[recipe]
    made: set[str] = set()
    inputs = {"data", "forget", "earlier", "parent", "base", "dense", "data/train"}
    inputs |= {"model"} if recipe == "adopt" else set()
    for name, stage in stages.items():
        assert stage["cmd"] == f"python -m sau stage {name}"
        assert name in STAGES
        assert set(stage.get("deps", ())) <= made | inputs, f"{name} depends on what no earlier step makes"
        made |= set(stage["outs"])
        assert [next(iter(m)) for m in stage["metrics"]] == [f"metrics/{name}.json"]


@pytest.mark.parametrize("file", FILES.values())
def test_every_parameter_that_a_step_reads_is_a_dvc_parameter(file):
    """A step that reads params.<section> without declaring it would not be run again when it changes."""
    for name, stage in yaml.safe_load((ROOT / file).read_text())["stages"].items():
        source = inspect.getsource(STAGES[name])
        read = set(re.findall(r"\bparams\.(\w+)", source)) - {"model_dump"}
        read |= {"num_threads"} if "_told(" in source or "_pruned(" in source else set()  # which names them there
        declared = {p.split(".")[0] for p in stage.get("params", ())}
        assert read == declared, f"{file}: {name}"


def test_a_step_that_was_killed_goes_on_where_it_was(forget, tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "EVERY_S", 0.0)
    whole = shutil.copytree(forget, tmp_path.with_name(f"{tmp_path.name}-whole"))
    made = {}
    for folder, last in ((whole, None), (forget, 7)):
        parameters(folder, stop={"eval_every": 3, "margin_nats": -9.0})
        run("snapshot", folder)
        seen = []

        def progress(step, total, values, last=last, seen=seen):
            seen.append(step)
            if step == last and len(seen) == last:
                raise KeyboardInterrupt

        if last:
            with pytest.raises(KeyboardInterrupt):
                run("unlearn", folder, progress)
            assert (folder / "artifacts" / ".resume-unlearn" / "state.json").is_file()
        made[last] = run("unlearn", folder, progress), read_manifest(folder / "artifacts" / "sparse").weights_digest
        assert seen[last or 0] == (last or 1), "it goes on with the step that was cut off"
        run("package", folder)
        assert not list((folder / "artifacts").glob(".resume-*"))
    assert made[None] == made[7]
