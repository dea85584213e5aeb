"""Stores that contradict each other, by a kill or by somebody's hand: mended, or refused with the way out."""

import json
import sys

import pytest

FINISHED = {
    "again": None, "state": "forgotten", "ledger": [2, "PASS"], "events": ["open", "running", "forgotten"],
    "versions": 2, "tags": True, "leader": 2, "candidate": True, "running": [], "models": 2, "run": "FINISHED",
}  # fmt: skip
REVIEW = FINISHED | {"state": "review", "ledger": [2, "FAIL"], "events": ["open", "running", "review"], "leader": 1}
OPEN_AGAIN = FINISHED | {
    "state": "open", "ledger": [None, None], "events": ["open", "running", "open"], "versions": 1, "leader": 1,
    "models": 1,
}  # fmt: skip
"""Nothing was registered: the next attempt begins anew, and nothing is left of the one that died."""


def said(copy_checkout, folder, mode):
    checkout = copy_checkout(folder / "checkout")
    return json.loads(checkout.run(sys.executable, "tests/integration/broken_stores.py", mode).stdout)


@pytest.fixture(scope="module")
def some(copy_checkout, tmp_path_factory):
    return said(copy_checkout, tmp_path_factory.mktemp("some"), "some")


@pytest.fixture
def contradicted(some):
    return some["contradicted"]


def test_an_attempt_that_was_killed_is_finished_from_where_it_was(some):
    killed = {cell.partition(" ")[2]: after for cell, after in some["PASS"].items()}
    assert killed.pop("mlflow log_model_artifacts") == OPEN_AGAIN
    assert killed == dict.fromkeys(("", "mlflow create_model_version", "mlflow set_registered_model_alias"), FINISHED)


def test_a_version_without_its_tag_gets_it_again(contradicted):
    assert contradicted["tag_deleted"] == FINISHED


def test_a_first_version_that_was_killed_before_it_led_leads(contradicted):
    name = "begun_and_killed"
    assert contradicted[name] == {"finished": f"{name}@v1", "leader": 1, "tags": [1]}


def test_what_the_leading_version_has_not_forgotten_is_not_in_force_and_done_again(contradicted):
    found = contradicted["rolled_back"]
    assert (found["before"], found["after"], found["waiting"]) == ([True], [False], ["forgotten"])
    events = ["open", "running", "forgotten", "running", "forgotten"]
    assert {key: found[key] for key in FINISHED} == FINISHED | {"events": events}


def test_a_request_that_was_carried_out_is_not_withdrawn(contradicted):
    found = contradicted["failed_after_promotion"]
    assert "failed_after_promotion@v2 has carried it out" in found.pop("withdrawn")
    assert found == FINISHED | {"events": ["open", "running", "forgotten", "open", "forgotten"]}


def test_an_open_request_is_tried_again_though_a_version_of_it_failed(contradicted):
    assert contradicted["failed_and_open"] == REVIEW | {"state": "open", "events": [*REVIEW["events"], "open"]}


def test_the_same_weights_judged_again_are_the_same_version_with_the_new_verdict(contradicted):
    found = contradicted["judged_again"]
    assert (found.pop("verdict"), found.pop("another_run")) == ("PASS", True)
    assert found == FINISHED | {"events": ["open", "running", "review", "running", "forgotten"]}


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("champion_deleted", ("none leads", "sau line set-champion champion_deleted 2")),
        ("champion_failed", ("champion_failed@v2: is champion with verdict FAIL", "set-champion champion_failed 1")),
        ("tag_moved", ("git tag tag_moved@v1 names commit", "git tag -d tag_moved@v1")),
        (
            "tag_of_another_store",
            ("does not have (tag_of_another_store-new@v1)", "SAU_HOME", "git tag -d", "-new 1` takes", "forget-line"),
        ),
        ("lost_registry", ("(lost_registry@v1 lost_registry@v2)", "`sau line adopt-version lost_registry 1`")),
        ("model_of_somebody_else", ("is not this product's", "--line")),
        ("experiment_deleted", ("was deleted", "mlflow experiments restore --experiment-id")),
    ],
)
def test_what_a_person_has_to_decide_is_said_with_the_way_out(contradicted, case, words):
    for word in words:
        assert word in contradicted[case]["refused"]


def test_a_restored_backup_that_does_not_know_of_somebody_stops_the_line_until_a_person_decides(contradicted):
    found = contradicted["restored"]
    assert f"{found['request']}: was forgotten by" in found["refused"]
    assert "neither the ledger nor the leading restored@v1 knows of it: was a backup restored?" in found["refused"]
    assert f"`sau suppression lift {found['request']}`" in found["refused"]
    assert found["lifted"] == ""


def test_the_way_out_is_one(contradicted):
    assert "its verdict is FAIL, only a version that passed may lead" in contradicted["champion_failed"]["by_hand"]
    assert "(tag_of_another_store-old-retrain@v1)" in contradicted["tag_of_another_store"]["of_references"]
    found = contradicted["champion_deleted"]
    assert "run `sau doctor --line champion_deleted`" in found["asked"]
    assert {key: found[key] for key in FINISHED} == FINISHED


def test_a_version_that_only_git_has_is_taken_in_and_leads_on_a_persons_word(contradicted):
    found = contradicted["lost_registry"]
    assert "was made from lost_registry@v1" in found["second_first"]
    assert "`sau line adopt-version lost_registry 1`" in found["second_first"]
    assert (found["verdicts"], found["parent"], found["once"]) == (["BOOTSTRAP", "UNJUDGED"], 1, True)
    assert "none leads; `sau line set-champion lost_registry 1`" in found["nobody"]
    assert "its verdict is UNJUDGED" in found["by_itself"]
    assert found["by"] == "ada"
    assert found["events"] == [["version adopted", 1, "ada"], ["version adopted", 2, "ada"]]
    assert {key: found["mended"][key] for key in ("state", "leader", "versions", "tags")} == {
        "state": "forgotten", "leader": 2, "versions": 2, "tags": True,
    }  # fmt: skip
    assert found["in_force"] == [True]


@pytest.mark.long
def test_what_was_deleted_by_hand_comes_back_and_what_was_given_up_halfway_is_gone(copy_checkout, tmp_path):
    by_hand = said(copy_checkout, tmp_path, "by-hand")
    found = by_hand["deleted_version"]
    for words in ("deleted_version@v1, the parent of", "`sau line adopt-version deleted_version 1`"):
        assert words in found["refused"]
    assert (found["number"], found["parent"], found["same_commit"]) == (3, 3, True)
    assert found["known"] == ""  # what has been done is done
    assert (found["leader"], found["in_force"]) == (2, [True])
    assert by_hand["gap_in_the_numbers"] == {"number": 3, "versions": 1, "verdict": "BOOTSTRAP"}
    cells = by_hand["killed"]
    right = cells.pop("uninterrupted")
    assert right == {
        "left": [False, 0, 0], "there": [2, 2, 1], "leader": 2, "events": [["giving up", "ada"], ["given up", "ada"]],
    }  # fmt: skip
    assert len(cells) >= 3
    assert cells == dict.fromkeys(cells, right)


def test_a_line_is_given_up_when_nobody_of_it_waits(contradicted):
    found = contradicted["given_up"]
    assert "requests of it wait" in found["waiting"]
    assert "no store knows it" in found["gone"]
    assert found["archived"]["left"] == [False, 0, 0]
    assert (found["state"], found["in_force"], found["doctor"], found["event"]) == ("forgotten", [True], 2, "ada")


def test_a_verdict_belongs_to_weights_and_policy(contradicted):
    assert contradicted["another_policy"] == {
        "verdicts": ["PASS", "FAIL"], "leader": 1, "after": ["FAIL", "PASS"], "then": 2,
        "stale": 1, "state": "open",
    }  # fmt: skip


@pytest.mark.crash
def test_killed_after_every_write_of_register_promote_and_ledger(copy_checkout, tmp_path):
    found = said(copy_checkout, tmp_path, "every-write")
    cells = found["PASS"]
    assert cells.pop("uninterrupted") == FINISHED
    names = list(cells)
    registered = next(i for i, name in enumerate(names) if name.endswith("create_model_version"))
    assert len(names) > 12
    assert cells == dict.fromkeys(names[:registered], OPEN_AGAIN) | dict.fromkeys(names[registered:], FINISHED)
    assert len(found["FAIL"]) == 4
    assert found["FAIL"] == dict.fromkeys(found["FAIL"], REVIEW)
