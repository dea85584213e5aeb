"""TOFU: its files become train and holdout rows, and what it does not have is refused."""

from pathlib import Path

import pytest

from sau.data import COLUMNS, load_records
from sau.data.tofu import load_tofu
from sau.errors import DataError

ROOT = Path(__file__).resolve().parents[3]
TOFU = ROOT.parent / "shared" / "data" / "tofu"
needs_tofu = pytest.mark.skipif(not TOFU.is_dir(), reason="TOFU's files are not beside the checkout")


@needs_tofu
def test_tofu_files_become_train_and_holdout():
    train, holdout = load_tofu(str(TOFU), forget="forget01", num_retain=100, num_holdout=40)
    assert [len(train), len(holdout)] == [140, 40]
    assert sum(row["subject_id"].startswith("f") for row in train) == 40
    assert all(len(row["perturbed_answer"]) >= 3 for row in train), "retain rows carry the published false answers"
    assert {r["record_id"] for r in train}.isdisjoint(r["record_id"] for r in holdout)


@needs_tofu
@pytest.mark.parametrize("options", [{"forget": "forget02"}, {"num_retain": 30}, {"num_retain": 3600}])
def test_tofu_refuses_what_it_does_not_have(options):
    with pytest.raises(DataError, match="TOFU"):
        load_tofu(str(TOFU), **options)


@needs_tofu
@pytest.mark.parametrize("name", ["forget10", "retain90", "retain_perturbed", "real_authors", "world_facts"])
def test_each_tofu_file_loads(name):
    loaded = load_records(TOFU / f"{name}.jsonl", subject="nobody")
    assert set(loaded.column_names) == set(COLUMNS)
    assert len(loaded) == sum(1 for _ in (TOFU / f"{name}.jsonl").open())
