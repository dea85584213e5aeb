"""The record of a version: to MLflow's tags and back, and what is not one of ours."""

import pytest

from sau.errors import TrackingError
from tasks.engines.registered import Registered
from tasks.versions.record import VersionRecord, changed_surroundings, surroundings

RECORD = VersionRecord(
    line="tiny",
    number=3,
    aliases=("candidate", "champion"),
    run_id="r",
    source="models:/m",
    request_ids=("r-1", "r-2"),
    parent=2,
    parent_digest="p",
    weights_digest="w",
    mask_digest="m",
    side_digest="s",
    sparsity=0.5,
    structure="2:4",
    data_md5="d",
    forget_md5="f",
    checkpoint_md5="c",
    params_digest="pa",
    training_digest="t",
    code_commit="co",
    git_commit="g",
    checkout_dirty=True,
    verdict="PASS",
    policy="quick",
    policy_digest="po",
    reference="tiny-retrain@v1",
)


def registered(tags, **changes) -> Registered:
    fields = {"line": "tiny", "number": 3, "aliases": ("candidate", "champion"), "run_id": "r", "source": "models:/m"}
    return Registered(tags=tags, **fields | changes)


@pytest.mark.parametrize(
    "record",
    [RECORD, RECORD.model_copy(update={"parent": None, "request_ids": (), "policy": "", "checkout_dirty": False})],
)
def test_what_is_written_as_tags_is_read_back(record):
    tags = record.to_tags()
    assert all(isinstance(value, str) for value in tags.values())
    assert VersionRecord.from_registered(registered(tags)) == record


def test_questions_that_are_asked_of_it():
    assert RECORD.tag == "tiny@v3"
    assert RECORD.leads
    assert RECORD.may_lead
    assert RECORD.origin == "from tiny@v2"
    assert RECORD.model_copy(update={"parent": None}).origin == "from the base model"
    assert not RECORD.model_copy(update={"verdict": "FAIL"}).may_lead
    assert RECORD.is_same_as(RECORD.model_copy(update={"number": 0, "verdict": "FAIL", "git_commit": "x"}))
    assert not RECORD.is_same_as(RECORD.model_copy(update={"weights_digest": "other"}))


def test_somebody_elses_version_is_named():
    with pytest.raises(TrackingError, match=r"tiny@v3: no version of this product \(tag '.*' is missing\)"):
        VersionRecord.from_registered(registered({"owner": "another team"}))
    with pytest.raises(TrackingError, match="tiny@v3: its tags are malformed"):
        VersionRecord.from_registered(registered(RECORD.to_tags() | {"parent_version": "two"}))


def test_a_version_of_before_weights_had_a_digest_is_read():
    tags = RECORD.to_tags()
    del tags["weights_digest"], tags["side_digest"]
    assert VersionRecord.from_registered(registered(tags | {"model_digest": "old"})).weights_digest == "old"


def test_surroundings_that_changed_are_told():
    now = surroundings()
    assert {"machine", "python", "torch", "transformers", "tokenizers"} <= now.keys()
    assert changed_surroundings(now) == {}
    assert changed_surroundings(now | {"torch": "1.0"}) == {"torch": ("1.0", now["torch"])}
    assert changed_surroundings(now | {"gone": "1"}) == {"gone": ("1", "absent")}
