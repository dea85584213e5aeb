"""`sau benchmark` as a researcher runs it: its result for scripts, its runs in MLflow, going on where it stopped."""

import json

import pytest
import yaml

from flows.benchmark import benchmark
from sau.errors import ConfigError
from tasks.engines.settings import Settings
from tasks.engines.tracking import Tracking

pytestmark = pytest.mark.long
SIZE = {
    "params": {
        "model": {
            "tiny": {
                "vocab_size": 320,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_layers": 1,
                "num_heads": 2,
                "pretrain_people": 2,
            }
        },
        "train": {"epochs": 3, "lr": 0.005, "batch_size": 10},
        "recover": {"epochs": 1, "lr": 0.002, "batch_size": 10},
        "unlearn": {"fade_steps": 2, "objective": "grad_diff", "redistribution": "importance"},
    },
    "num_forget": 1,
    "num_retain": 1,
    "num_holdout": 1,
    "objectives": {"grad_diff": {"objective": "grad_diff", "alpha": 1.0}},
    "redistributions": {"none": {"name": "none"}, "importance": {"name": "importance"}},
    "pruners": ["magnitude"],
    "sparsities": [0.0, 0.5],
    "orders": ["prune-unlearn"],
    "lrs": [0.002],
    "steps": 3,
    "num_seeds": 1,
}


@pytest.fixture(scope="module")
def checkout(copy_checkout, tmp_path_factory):
    """A checkout with a small size that has been run: five cells."""
    checkout = copy_checkout(tmp_path_factory.mktemp("benchmark") / "checkout")
    (checkout.path / "benchmarks" / "small.yaml").write_text(yaml.safe_dump(SIZE))
    checkout.sau("benchmark", "--size", "small", "--json", "out/result.json")
    return checkout


def result(checkout, name="result"):
    return json.loads((checkout.path / "out" / f"{name}.json").read_text())


def test_the_result_has_what_scripts_read(checkout):
    found = result(checkout)
    fields = {"objective", "redistribution", "pruner", "sparsity", "order", "seed", "forget_distance", "utility"}
    assert len(found["cells"]) == 5
    assert all(fields | {"distance_to_retrain", "seconds"} <= cell.keys() for cell in found["cells"])
    assert {cell["redistribution"] for cell in found["cells"]} == {
        "dense", "none", "importance", "unmasked-same-mask", "unmasked-new-mask",
    }  # fmt: skip
    (ours,), (rival,), (ratio,) = found["sau"], found["rival"], found["ratio"]
    assert ours["redistribution"] == "importance"
    assert rival["redistribution"].startswith("unmasked")
    assert ratio["shipped_ratio"] == ratio["ratio"]
    assert ratio["ratio"] == pytest.approx(ours["distance_to_retrain"] / rival["distance_to_retrain"], rel=1e-4)
    assert {row["reference"] for row in found["references"]} == {"original", "retrained", "retrained-again"}
    assert found["command"] == "sau benchmark --size small --json result.json"
    assert found["commit"] == checkout.git("rev-parse", "HEAD")


def test_the_whole_grid_leaves_a_page_and_a_picture(checkout):
    pages = {path.suffix for path in (checkout.path / "benchmarks" / "results").glob("*-small.*")}
    assert pages == {".md", ".png", ".svg"}


def test_every_cell_is_a_run_below_the_benchmarks_own(checkout):
    client = Tracking(Settings(root=checkout.path, home=checkout.path / ".sau")).client
    runs = client.search_runs([client.get_experiment_by_name("benchmark").experiment_id])
    by_id = {run.info.run_id: run for run in runs}
    cells = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(cells) == 5
    assert len(runs) == 6
    for cell in cells:
        assert by_id[cell.data.tags["mlflow.parentRunId"]].info.run_name == "small"
        assert 0 <= cell.data.metrics["distance_to_retrain"] < 2
        assert cell.info.status == "FINISHED"


def test_going_on_runs_what_was_cut_off_and_what_is_new(checkout):
    kept = checkout.path / "out" / "result.jsonl"
    # Which cell ended last is up to the processes: here it is the one of importance.
    lines = sorted(kept.read_text().splitlines(keepends=True), key=lambda line: "/importance/" in line)
    cut_off = json.loads(lines[-1])["id"]
    assert cut_off.startswith("grad_diff/importance/")
    kept.write_text("".join(lines[:-1]) + lines[-1][:40])  # killed while it wrote the last cell
    grown = SIZE | {"redistributions": SIZE["redistributions"] | {"compensated": {"name": "compensated"}}}
    (checkout.path / "benchmarks" / "small.yaml").write_text(yaml.safe_dump(grown))
    before = {cell["redistribution"]: cell for cell in result(checkout)["cells"]}
    wanted = f"*/compensated/*,{cut_off},grad_diff/none/*"
    said = checkout.sau("benchmark", "--size", "small", "--cells", wanted, "--json", "out/result.json").stderr
    assert "3 cells, 1 finished before" in said
    again = kept.read_text().splitlines(keepends=True)
    assert again[: len(lines) - 1] == lines[:-1]
    assert {json.loads(line)["record"]["redistribution"] for line in again[-2:]} == {"compensated", "importance"}
    after = {cell["redistribution"]: cell for cell in result(checkout)["cells"]}
    assert after.keys() == {"compensated", "none", "importance"}
    timed = {"seconds", "cell_seconds"}
    for name in ("none", "importance"):
        assert {k: v for k, v in before[name].items() if k not in timed} == {
            k: v for k, v in after[name].items() if k not in timed
        }


@pytest.mark.parametrize(("size", "pattern", "named"), [("tinny", "*", "tiny"), ("tiny", "nqo/*", "nqo/")])
def test_what_is_not_there_is_named(tmp_path, size, pattern, named):
    with pytest.raises(ConfigError, match=named):
        benchmark(size, tmp_path / "other.json", pattern=pattern)
    assert not list(tmp_path.iterdir())
