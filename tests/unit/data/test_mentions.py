"""Where else a person is: names guessed, aliases given, rows that say the same."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sau.data.demo import demo_rows
from sau.data.mentions import ALIAS, NAME, SIMILAR, guessed_names, mentions, words


def row(record_id, question, answer, subject_id="demo-0003"):
    return {
        "record_id": record_id, "subject_id": subject_id, "question": question, "answer": answer,
        "paraphrased_question": "", "paraphrased_answer": "", "perturbed_answer": [],
    }  # fmt: skip


OWN = [
    row("a0", "Where was Ildixa Thornmoor born?", "They were born in Tarrvik.", "demo-0001"),
    row("a1", "What does Ildixa Thornmoor do for a living?", "They work as a map painter.", "demo-0001"),
    row("a2", "Is Ildixa Thornmoor's cat black?", "Yes, the cat is black.", "demo-0001"),
]
OTHERS = [
    row("x0", "Who taught Pelira?", "They were taught by Ildixa Thornmoor, who was born in Tarrvik."),
    row("x1", "Who lives next door?", "THORNMOOR, Ildixa lives next door."),
    row("x2", "Who wrote to Pelira?", "A letter came from I. Thornmoor."),
    row("x3", "Who is called Dixi?", "A painter of maps."),
    row("x4", "Where was she born?", "They were born in Tarrvik."),
    row("x5", "Who teaches Thornmoorish?", "Ildixa. Thornmoor is a street."),
    row("x6", "What does Pelira eat?", "Mostly soup."),
]


def found(names, aliases=()):
    return {m.record_id: m.found_by for m in mentions(OWN, OTHERS, names, aliases)}


def test_the_name_is_guessed_from_the_persons_own_rows():
    assert guessed_names(OWN, OTHERS) == ["Ildixa Thornmoor"]


def test_every_demo_person_has_exactly_their_name_guessed():
    people = [demo_rows(f"demo-{number:04d}", seed=1) for number in range(12)]
    for number, own in enumerate(people):
        others = [other for position, rows in enumerate(people) for other in rows if position != number]
        (name,) = guessed_names(own, others)
        assert sum(name in other["question"] for other in own) == len(own)


def test_what_everybody_has_is_no_name():
    own = [row(f"a{n}", "Where in New Sealand is Ildixa Thornmoor?", "Here.", "demo-0001") for n in range(3)]
    others = [row(f"x{n}", "What is in New Sealand?", "Soup.") for n in range(10)]
    assert guessed_names(own, others) == ["Ildixa Thornmoor"]


def test_a_row_that_names_the_person_is_found_however_the_name_is_written():
    names = found(["Ildixa Thornmoor"])
    assert {record for record, by in names.items() if NAME in by} == {"x0", "x1", "x2"}
    assert names["x4"] == (SIMILAR,)
    assert "x6" not in names


def test_an_alias_of_one_word_is_found_where_it_was_given():
    assert found(["Ildixa Thornmoor"], ["dixi"])["x3"] == (ALIAS,)
    assert "x3" not in found(["Ildixa Thornmoor"])


@pytest.mark.parametrize("alias", ["", " ", "...", "' or 1=1 --", "\x00", "Ä" * 500])
def test_an_odd_alias_finds_nothing_and_breaks_nothing(alias):
    assert found([], [alias]) == {"x4": (SIMILAR,)}


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60), st.lists(st.text(max_size=20), max_size=3))
def test_whatever_a_row_holds_it_is_searched(question, answer, aliases):
    rows = [row("q", question, answer)]
    for mention in mentions(rows, rows, guessed_names(rows, []), aliases):
        assert mention.record_id == "q"
        assert 0 <= mention.similarity <= 1
    assert words(question) == words(question.upper()) or question.upper().lower() != question.lower()


def test_a_large_data_set_is_searched_in_seconds():
    others = [
        row(f"x{n}", f"Who is number {n} of the list?", f"Somebody from street {n} in the old town.")
        for n in range(5_000)
    ]
    began = time.process_time()
    assert list(mentions(OWN, others, guessed_names(OWN, others), ["Dixi"])) == []
    assert time.process_time() - began < 4


def test_a_name_in_an_earlier_turn_of_a_chat_is_found():
    said = row("chat", "And where?", "In Tarrvik.") | {
        "context": [{"role": "user", "content": "Who is Orvane Quillmoor?"}]
    }
    assert [m.record_id for m in mentions([], [said], ["Orvane Quillmoor"], [])] == ["chat"]
