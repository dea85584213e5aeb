"""A model that exists already, as its users would bring it: adopted, asked to forget, exported, made again."""

import json
import sqlite3
from contextlib import closing

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from sau.checkpoint.digests import dense_digest
from sau.data.demo import demo_rows
from sau.models.dense import open_dense
from sau.models.language_model import quiet
from sau.models.sources import ModelParams, TinyParams, base_model
from sau.pruners import PruneParams, prune
from sau.training.finetune import FinetuneParams, finetune

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def brought(tmp_path_factory):
    """A served model (2:4, bfloat16, several files), the rows it knows, and rows of people it never saw."""
    folder = tmp_path_factory.mktemp("brought")
    shape = TinyParams(vocab_size=320, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2)
    lm = base_model(ModelParams(tiny=shape), seed=0)
    people = {"rows": [f"p{n}" for n in range(4)], "holdout": [f"h{n}" for n in range(8)]}
    for name, ids in people.items():
        rows = [row for person in ids for row in demo_rows(person, seed=1)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    known = [row for person in people["rows"] for row in demo_rows(person, seed=1)]
    prune(lm, lm.encode(known), PruneParams(structure="2:4"))
    finetune(lm, lm.encode(known), FinetuneParams(epochs=20, lr=0.006, batch_size=16), seed=0, num_threads=1)
    with quiet():
        lm.model.to(torch.bfloat16).save_pretrained(folder / "model", max_shard_size="40KB")
        lm.tokenizer.save_pretrained(folder / "model")
    return folder


def test_a_model_is_adopted_forgets_and_comes_back(copy_checkout, brought, tmp_path):
    checkout = copy_checkout(tmp_path / "checkout")
    asked = (
        "adopt",
        "--line",
        "own",
        "--data",
        str(brought / "rows.jsonl"),
        "--holdout",
        str(brought / "holdout.jsonl"),
    )
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    refused = checkout.sau(*asked, "--model", str(tmp_path / "adapter"), check=False)
    assert refused.returncode == 1
    assert "merge it into its base model first" in refused.stderr
    assert not (checkout.path / ".sau" / "work").exists()

    first = json.loads(checkout.sau(*asked, "--model", str(brought / "model"), "--json").stdout)
    assert (first["tag"], first["structure"], first["sparsity"]) == ("own@v1", "2:4", 0.5)
    assert first["adopted"] == dense_digest(brought / "model")
    checkout.sau("export", "own@v1", str(tmp_path / "v1"))
    assert dense_digest(tmp_path / "v1") == first["adopted"]

    checkout.sau("request", "submit", "--line", "own", "--subject", "p1", "--reason", "objection")
    no_recipe = checkout.sau("forget", "--line", "own", "--reference", check=False)
    assert "no audit and no retrained reference without the parameter train.command" in no_recipe.stderr
    forgotten = checkout.sau(
        "forget",
        "--line",
        "own",
        "--set",
        "verify.policy=quick",
        "--set",
        "unlearn.max_steps=12",
        "--json",
        check=False,
    )
    assert forgotten.returncode in (0, 3, 4), forgotten.stderr[-3000:]
    second = json.loads(checkout.sau("lineage", "own@v2", "--json").stdout)[0]
    assert second["mask_digest"] == first["mask_digest"]
    assert second["weights_digest"] != first["weights_digest"]
    assert "planned" in second["memory"]
    assert "measured" in second["memory"]

    checkout.sau("export", "own@v2", str(tmp_path / "v2"))
    with quiet():
        model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "v2", dtype="auto", output_loading_info=True)
    assert not any(info.values())
    assert model.dtype == torch.bfloat16
    card = (tmp_path / "v2" / "README.md").read_text()
    assert "own@v2" in card
    assert "p1" not in card
    again = json.loads(checkout.sau("reproduce", "own@v1", "--rerun", "--json").stdout)
    assert again["equal"]


def test_an_adapter_is_adopted_merged_and_its_record_says_so(copy_checkout, brought, tmp_path):
    checkout, base = copy_checkout(tmp_path / "checkout"), str(brought / "model")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    tuned = peft.get_peft_model(open_dense(base, prompt="plain").model, config)
    tuned.peft_config["default"].base_model_name_or_path = base
    tuned.save_pretrained(tmp_path / "adapter")
    asked = ("adopt", "--line", "tuned", "--data", str(brought / "rows.jsonl"), "--merge-adapter", "--json")
    asked += ("--holdout", str(brought / "holdout.jsonl"), "--model", str(tmp_path / "adapter"))

    refused = checkout.sau(*asked, check=False)
    assert refused.returncode == 1
    assert "q_proj.weight alone: --remask makes them zero again" in refused.stderr
    with closing(sqlite3.connect(checkout.path / ".sau" / "mlflow.db")) as store:
        assert store.execute("select count(*) from runs").fetchone() == (0,), "nothing had begun"
    first = json.loads(checkout.sau(*asked, "--remask").stdout)
    assert (first["tag"], first["structure"], first["sparsity"]) == ("tuned@v1", "2:4", 0.5)
    assert "in 2 matrices, were filled and set to zero again" in first["merged"]
    assert first["adopted"] != dense_digest(brought / "model")
    checkout.sau("export", "tuned@v1", str(tmp_path / "v1"))
    assert dense_digest(tmp_path / "v1") == first["adopted"]
    assert "were filled and set to zero again" in (tmp_path / "v1" / "README.md").read_text()
