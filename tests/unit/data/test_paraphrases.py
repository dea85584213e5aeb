"""Rows in the other words they have."""

from sau.data.demo import demo_rows
from sau.data.paraphrases import with_paraphrases


def test_each_row_is_followed_by_its_paraphrases():
    row = demo_rows("a", seed=1)[0]
    asked, question, answer = with_paraphrases([row])
    assert asked == row
    assert (question["question"], question["answer"]) == (row["paraphrased_question"], row["answer"])
    assert (answer["question"], answer["answer"]) == (row["question"], row["paraphrased_answer"])
    assert len({found["record_id"] for found in (asked, question, answer)}) == 3
    assert {found["subject_id"] for found in (asked, question, answer)} == {row["subject_id"]}


def test_rows_without_other_words_stay_alone():
    row = {**demo_rows("a", seed=1)[0], "paraphrased_question": "", "paraphrased_answer": ""}
    assert with_paraphrases([row, row]) == [row, row]
