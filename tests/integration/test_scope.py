"""What was decided of single rows is so in an attempt's folder: rows of others come in, own rows stay, none is lost."""

import pytest

from sau.data.demo import demo_rows
from sau.data.records import load_records, write_shards
from sau.errors import RequestError
from tasks.engines.decisions import decide_rows
from tasks.engines.ledger import Ledger
from tasks.scope import decided_rows, taken_out

ASKED, OTHER, THIRD = "demo-0001", "demo-0002", "demo-0003"


@pytest.fixture
def train(tmp_path):
    """An attempt's `data/train`, where every file is the very one of the cache."""
    write_shards([row for who in (ASKED, OTHER, THIRD) for row in demo_rows(who, seed=1)], tmp_path / "cache")
    (tmp_path / "train").mkdir()
    for shard in (tmp_path / "cache").iterdir():
        (tmp_path / "train" / shard.name).hardlink_to(shard)
    return tmp_path / "train"


@pytest.fixture
def ledger(tmp_path):
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


def ids(rows):
    return [row["record_id"] for row in rows]


def shards(place):
    return {shard.stem: ids(load_records(shard).to_list()) for shard in sorted(place.glob("*.jsonl"))}


def test_rows_of_others_become_rows_of_the_person_and_kept_rows_stay(train, ledger):
    before = {shard: shard.read_bytes() for shard in (train.parent / "cache").iterdir()}
    request = ledger.submit("tiny", ASKED).id
    decide_rows(ledger, request, [f"{OTHER}-03", f"{THIRD}-00", "gone-already"], "forget", "they name her", "Ada")
    decide_rows(ledger, request, [f"{THIRD}-00"], "keep", "another of that name", "Ada")
    decide_rows(ledger, request, [f"{ASKED}-01"], "keep", "a case at court", "Ada", ground="legal-claims")
    rows = taken_out(ledger, train, [request])[request]
    assert f"{OTHER}-03" in ids(rows)
    assert f"{ASKED}-01" not in ids(rows)
    assert len(rows) == 20
    assert {row["subject_id"] for row in rows} == {ASKED}, "a verdict by people takes them for one person's"
    left = shards(train)
    assert left[ASKED] == [f"{ASKED}-01"]
    assert f"{OTHER}-03" not in left[OTHER]
    assert (len(left[OTHER]), len(left[THIRD])) == (19, 20)
    assert before == {shard: shard.read_bytes() for shard in before}, "the cache's own files are left alone"


def test_without_decisions_only_the_persons_own_file_goes(train, ledger):
    request = ledger.submit("tiny", ASKED).id
    (taken,) = taken_out(ledger, train, [request]).values()
    assert [(row["record_id"], row["answer"]) for row in taken] == [
        (row["record_id"], row["answer"]) for row in demo_rows(ASKED, seed=1)
    ]
    assert list(shards(train)) == [OTHER, THIRD]
    assert (train / f"{OTHER}.jsonl").samefile(train.parent / "cache" / f"{OTHER}.jsonl")
    assert decided_rows(ledger, [request]) == {}


def test_a_row_that_two_requests_are_to_forget_goes_with_the_first(train, ledger):
    requests = [ledger.submit("tiny", subject).id for subject in (ASKED, OTHER)]
    for request in requests:
        decide_rows(ledger, request, [f"{THIRD}-00"], "forget", "names both", "Ada")
    first, second = (ids(rows) for rows in taken_out(ledger, train, requests).values())
    assert f"{THIRD}-00" in first
    assert len(second) == 20


def test_a_person_whose_rows_are_all_forgotten_for_others_is_gone(train, ledger):
    request = ledger.submit("tiny", ASKED).id
    decide_rows(ledger, request, [f"{THIRD}-{number:02d}" for number in range(20)], "forget", "all of them", "Ada")
    assert len(taken_out(ledger, train, [request])[request]) == 40
    assert list(shards(train)) == [OTHER]


def test_a_request_of_which_nothing_is_left_is_refused(train, ledger):
    request = ledger.submit("tiny", ASKED).id
    own = [f"{ASKED}-{number:02d}" for number in range(20)]
    decide_rows(ledger, request, own, "keep", "all", "Ada", ground="legal-claims")
    with pytest.raises(RequestError, match="nothing is left to forget"):
        taken_out(ledger, train, [request])


def test_somebody_who_is_not_there_leaves_everybody_there(train, ledger):
    requests = [ledger.submit("tiny", subject).id for subject in (ASKED, "demo-0009")]
    with pytest.raises(RequestError, match="its subject is not in the data"):
        taken_out(ledger, train, requests)
    assert list(shards(train)) == [ASKED, OTHER, THIRD]


def test_an_odd_record_id_is_found_in_its_shard(train, ledger):
    odd = 'a "quoted" \\ id é'
    (train / f"{THIRD}.jsonl").unlink()
    write_shards([demo_rows(THIRD, seed=1)[0] | {"record_id": odd}], train)
    request = ledger.submit("tiny", ASKED).id
    decide_rows(ledger, request, [odd], "forget", "names her", "Ada")
    assert odd in ids(taken_out(ledger, train, [request])[request])
