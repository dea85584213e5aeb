"""Rows of everybody's words are told from a person's own, whatever a data set's people usually have."""

import random

import pytest

from sau.data.common_text import MIN_PEOPLE, CommonText
from sau.data.demo import demo_rows

FUNCTION = ("they", "were", "the", "of", "in", "at", "are", "a", "by")
PROSE = "They were in the house and they like the best of the tea at the table, for it was a good day in the town."


@pytest.fixture(scope="module")
def people():
    return [demo_rows(f"demo-{number:05d}", seed=3) for number in range(60)]


@pytest.fixture(scope="module", params=[12, 40])
def text(people, request):
    return CommonText([row for rows in people[: request.param] for row in rows])


def attack(people, answer):
    """Somebody's questions, with answers that are not theirs."""
    return [row | {"answer": answer(row)} for row in people[-1]]


def test_an_ordinary_person_is_not_put_aside(people, text):
    assert [number for number, rows in enumerate(people[40:]) if text.of(rows).reasons] == []


def test_rows_copied_from_others_are_seen(people, text):
    rng = random.Random(0)
    copied = [rng.choice(rng.choice(people[:12])) for _ in range(20)]
    found = text.of(copied)
    assert len(found.record_ids) == found.num_rows == 20
    assert found.reasons[0].startswith("20 of 20 rows are common text")


def test_ordinary_language_under_questions_of_ones_own_is_seen(people, text):
    rng = random.Random(0)
    for answer in (
        lambda row: " ".join(rng.choice(FUNCTION) for _ in range(40)),
        lambda row: PROSE,
        lambda row: row["answer"].replace(" ", " the "),
    ):
        assert text.of(attack(people, answer)).reasons, answer


def test_other_peoples_words_in_another_order_are_seen(people, text):
    rng = random.Random(0)
    words = [word for rows in people[:12] for row in rows for word in row["answer"].split()]
    found = text.of(attack(people, lambda row: " ".join(rng.choice(words) for _ in range(30))))
    assert "next to all of its words are other people's" in found.reasons


def test_among_many_people_who_use_every_word_the_order_tells():
    people = [demo_rows(f"demo-{number:05d}", seed=3) for number in range(260)]
    many, honest = CommonText([row for rows in people[:240] for row in rows]), people[240:]
    words = [word for rows in people[:240] for row in rows for word in row["answer"].split()]
    assert [number for number, rows in enumerate(honest) if many.of(rows).reasons] == []
    for length in (4, 30):
        rng = random.Random(length)
        shuffled = [row | {"answer": " ".join(rng.choice(words) for _ in range(length))} for row in honest[0]]
        assert any("in another order" in reason for reason in many.of(shuffled).reasons), length


def test_one_who_is_most_of_the_data_is_seen(people, text):
    found = text.of([row | {"answer": " ".join(f"word{n} of{n}" for n in range(80))} for row in people[-1]])
    assert [reason for reason in found.reasons if "of all words" in reason]


def test_no_reason_quotes_anybody(people, text):
    said = " ".join(text.of(attack(people, lambda row: PROSE)).reasons + text.of(people[0]).reasons)
    assert not {"house", "tea", *people[0][0]["answer"].split()[-1:]} & set(said.split())


def test_people_who_ask_together_do_not_vouch_for_each_other(people):
    """What three accomplices have in common is judged by those who stay, who do not use it so."""
    staying = CommonText([row for rows in people[:12] for row in rows])
    assert staying.of(attack(people, lambda row: PROSE)).reasons
    crowd = [row | {"subject_id": f"x{n}"} for n in range(12) for row in attack(people, lambda row: PROSE)]
    assert (
        not CommonText([*crowd, *(row for rows in people[:12] for row in rows)])
        .of(attack(people, lambda row: PROSE))
        .reasons
    ), "as would be, were they counted"


def test_of_too_few_nothing_is_said(people):
    few = CommonText([row for rows in people[: MIN_PEOPLE - 1] for row in rows])
    assert few.of(people[0]).reasons == ()
