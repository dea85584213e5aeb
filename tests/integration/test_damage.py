"""Damaged stores: what is whole elsewhere is put back, and else one line names the thing and the way out."""

import json
import sys

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def found(copy_checkout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    checkout = copy_checkout(folder / "checkout")
    command = (sys.executable, "tests/integration/damaged_stores.py")
    done = checkout.run(*command, PREFECT_HOME=str(folder / "prefect"))  # of the server, which stays when stores go
    return json.loads(done.stdout)


def test_whole_stores_are_found_whole(found):
    assert found["whole"]["said"] == []


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("row_in_cache", "1 objects of data were damaged in DVC's cache, and were fetched anew"),
        ("listing_in_cache", "1 objects of data were damaged"),
        ("checkpoint_in_cache", "objects of checkpoint were damaged"),
        ("weights_in_mlflow", "MLflow's checkpoint is damaged"),
        ("weights_cut_in_mlflow", "it was put back from DVC"),
        ("file_lost_in_mlflow", "missing or extra files: config.json); it was put back from DVC"),
        ("tag_deleted", "had no git tag, and has one again"),
        ("remote_refilled", "lacked checkpoint, data, and was sent them"),
    ],
)
def test_what_is_whole_elsewhere_is_put_back(found, case, words):
    said = found[case]
    assert words in " ".join(said["said"])
    assert (said["stops"], said["again"]) == ([False], []), said
    assert (said["cache"], said["stored"]) == ([], found["whole"]["stored"])


@pytest.mark.parametrize("case", ["cache_collected", "row_in_remote", "collected"])
def test_what_nobody_misses_is_no_finding(found, case):
    """An empty cache is filled from the remote; what is damaged there is found when it is needed."""
    assert (found[case]["said"], found[case]["again"]) == ([], [])
    assert found[case]["cache"] == []


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("row_in_both", ("data: object", "was damaged in DVC's cache", "has no whole one: bring it there from a copy")),
        ("remote_deleted", ("lacks checkpoint, data", "`sau doctor --line tiny --refill`", "SAU_DVC_REMOTE")),
        (
            "bytes_in_no_store",
            ("checkpoint, data: object", "is not in DVC's cache", "has no whole one", "SAU_DVC_REMOTE"),
        ),
        ("experiment_deleted", ("was deleted", "mlflow experiments restore")),
        ("version_deleted", ("git has tags of versions that this MLflow store does not have (tiny@v1)", "SAU_HOME")),
        ("tag_moved", ("git tag tiny@v1 names commit", "git tag -d tiny@v1")),
        ("collected_everywhere", ("data", "has no whole one: bring it there from a copy")),
    ],
)
def test_what_a_person_has_to_decide_is_one_line_with_the_way_out(found, case, words):
    (said,) = found[case]["said"]
    assert found[case]["stops"] == [True]
    for word in words:
        assert word in said
    assert "\n" not in said


def test_a_damaged_ledger_is_said_in_one_line(found):
    assert found["ledger_damaged"]["error"].startswith("RequestError: ledger: the database")


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("row_in_both", "has no whole one: bring it there from a copy"),
        ("remote_deleted", "--refill"),
        ("experiment_deleted", "mlflow experiments restore"),
        ("version_deleted", "tags of versions that this MLflow store does not have"),
        ("tag_moved", "git tag -d tiny@v1"),
        ("collected_everywhere", "has no whole one: bring it there from a copy"),
        ("remote_read_only", "SAU_DVC_REMOTE: "),
        ("remote_full", "SAU_DVC_REMOTE: "),
        ("home_full", ""),
        ("home_nearly_full", ""),
    ],
)
def test_forgetting_on_damaged_stores_is_refused_and_nothing_is_begun(found, case, words):
    said = found["attempted"][case]
    if "skipped" in said:
        pytest.skip(said["skipped"])
    assert words in said["said"]
    assert said["said"]
    assert said["then"] == "open", "after a disk was full, the next run says so at the latest"
    kept = 0 if case == "version_deleted" else 1
    assert (said["leader"], said["versions"], said["tags"]) == (kept or None, kept, [1])
    if not case.startswith("home"):  # a full one keeps what the next run takes up
        assert (said["state"], said["work"]) == ("open", [])


def test_no_words_name_a_person(found):
    """Nor a file, whose name is one's."""
    assert ".jsonl" not in json.dumps(found)
