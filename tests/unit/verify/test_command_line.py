"""`sau verify`: its exit codes, what it prints, and the record that it writes."""

import json
import sys

import pytest

from sau import cli
from sau.data.sets import SETS
from sau.verify import load_policy
from sau.verify.evidence.decoys import find_secrets

QUICK = load_policy("quick", null="retrained")


@pytest.fixture
def sau(folder, tmp_path, monkeypatch):
    """Runs `sau verify` on the folder: (exit code, the record or None)."""

    def call(*args, **paths):
        given = {name: folder / name for name in ("model", *SETS)} | paths
        options = [f"--{key}={value}" for key, value in given.items() if value is not None]
        record = tmp_path / "record.json"
        record.unlink(missing_ok=True)
        monkeypatch.setattr(
            sys, "argv", ["sau", "verify", *options, f"--json={record}", "--policy=quick", "--null=retrained", *args]
        )
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, json.loads(record.read_text()) if record.is_file() else None

    return call


def test_exit_0_is_pass_and_power_and_cost_of_every_check_are_printed(sets, sau, folder, tmp_path, capsys):
    page = tmp_path / "page.html"
    code, record = sau(f"--html={page}", before=folder / "before", reference=folder / "reference")
    printed = capsys.readouterr().out
    assert code == 0
    assert record["verdict"] == "PASS"
    assert record["policy_digest"] == QUICK.digest
    assert len(record["weights_digest"]) == 64
    assert ">PASS</strong>" in page.read_text()
    for name in ("power", "rows read", "CPU s", "verdict PASS by policy quick, against a model retrained"):
        assert name in printed
    for its in record["checks"]:
        fields = {"id", "n", "value", "interval", "before", "reference", "margin", "verdict", "reason", "power"}
        assert fields <= its.keys()
        assert its["rows_read"] > 0
        assert its["seconds"] > 0
        assert its["id"] in printed
    # Three models read 20 forget, 60 retain and 80 holdout rows, each with a true and five false answers beside it, of
    # the rows to keep 40.
    assert {c["id"]: c["rows_read"] for c in record["checks"]}["retain_utility"] == 3 * (60 + 40 * 6)
    assert {c["id"]: c["rows_read"] for c in record["checks"]}["membership/mia_min_k"] == 3 * 100 * 7
    decoys = find_secrets(sets.forget, sets.retain, sets.holdout, num_decoys=QUICK.num_decoys, seed=0)
    assert record["rows_read"] == 3 * (160 + 140 * 6 + sum(1 + len(secret.decoys) for secret in decoys))
    assert 0 < record["seconds"] < 60


def test_exit_3_is_fail(sau, folder):
    code, record = sau(model=folder / "before", before=folder / "before", reference=folder / "reference")
    assert (code, record["verdict"]) == (3, "FAIL")


def test_exit_4_is_inconclusive_and_a_holdout_set_may_be_missing(sau, folder):
    code, record = sau(holdout=None, before=folder / "before", reference=folder / "reference")
    assert (code, record["verdict"]) == (4, "INCONCLUSIVE")
    reasons = {check["id"]: check["reason"] for check in record["checks"] if check["verdict"] == "INCONCLUSIVE"}
    assert "0 holdout records" in reasons["membership/mia_min_k"]


def test_exit_5_is_refused(sau, folder):
    code, record = sau(retain=folder / "forget", reference=folder / "reference")
    assert (code, record["verdict"], record["checks"]) == (5, "REFUSED", [])
    assert "both in the forget and the retain set" in record["reasons"][0]


@pytest.mark.parametrize(
    ("paths", "args", "said"),
    [
        ({"model": "nowhere"}, (), "ModelError"),
        ({"forget": "nowhere.jsonl"}, (), "DataError"),
        ({}, ("--policy=lax",), "quick, standard, strict"),
        ({}, ("--show-answers", "--html=x.html"), "not of the demo people"),
    ],
)
def test_exit_1_is_an_error_in_one_line(sau, capsys, paths, args, said):
    code, record = sau(*args, **paths)
    assert (code, record) == (1, None)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("args", [("--stressors=-1",), ("--show-answers",), ("--nonsense",)])
def test_exit_2_is_usage(sau, args):
    assert sau(*args) == (2, None)
