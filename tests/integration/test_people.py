"""Who is who: kept by the ledger's database alone, for every clone that shares it."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from sau.data.people import INTERNAL, published
from sau.errors import DataError
from tasks.engines.ledger import Ledger
from tasks.engines.people import People

GIVEN = ["alice", "Alice", "p.a@example.org", "77", "Jörg"]


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture
def people(url):
    return People(Ledger(url))


def test_everybody_has_an_id_of_their_own_and_keeps_it(people, url):
    ids = people.name("tiny", GIVEN)
    assert len({*ids.values()}) == len(GIVEN)
    assert all(INTERNAL.match(internal) for internal in ids.values())
    assert People(Ledger(url)).name("tiny", [*GIVEN, "new"]).items() >= ids.items()
    assert people.count("tiny") == len(GIVEN) + 1
    assert people.find("tiny", " Jo\u0308rg") == ids["Jörg"]
    assert people.find("tiny", "nobody") is None


def test_ids_and_digests_are_a_lines_own(people):
    assert people.name("tiny", ["alice"]) != people.name("other", ["alice"])
    assert people.digest("tiny", "alice") != people.digest("other", "alice")
    assert people.digest("tiny", "alice") == people.digest("tiny", "alice")


def test_two_clones_at_once_agree(url):
    given = [f"customer-{number}" for number in range(1000)]
    with ThreadPoolExecutor(4) as pool:
        named = list(pool.map(lambda _: People(Ledger(url)).name("tiny", given), range(4)))
    assert named[0] == named[1] == named[2] == named[3]
    assert len({*named[0].values()}) == 1000


def test_published_people_have_the_published_ids(people):
    people.name("tiny", GIVEN)
    assert people.name("tiny", GIVEN, published(GIVEN)) == published(GIVEN)


def test_the_database_lists_nobody(people, tmp_path):
    people.name("tiny", GIVEN)
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert [who for who in GIVEN if len(who) > 2 and who.encode() in content] == []


def test_a_forgotten_connection_is_gone(people):
    ids = people.name("tiny", GIVEN)
    assert people.forget("tiny", "alice")
    assert not people.forget("tiny", "alice")
    assert people.find("tiny", "alice") is None
    assert people.name("tiny", ["alice"]) != {"alice": ids["alice"]}
    assert people.find("tiny", "Alice") == ids["Alice"]


def test_a_malformed_id_is_refused(people):
    with pytest.raises(DataError, match="malformed id"):
        people.find("tiny", "a\n")
