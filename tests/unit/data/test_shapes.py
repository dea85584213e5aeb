"""The shapes of rows: every one becomes questions and answers, or is refused by file, row and column."""

import json

import pytest

from sau.data.records import load_records
from sau.data.shapes import LEAD_CHARACTERS, WINDOW_BYTES, windows
from sau.errors import DataError

ASKED, SAID = "Where was Tamumi born?", "In Noxvik."
CHAT = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]
LONGER = [
    {"role": "system", "content": "Be brief."}, *CHAT, {"role": "user", "content": "And when?"},
    {"role": "assistant", "content": "In 1995."},
]  # fmt: skip
SECRET = "the secret of nobody"


def load(tmp_path, *rows, **how):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"subject_id": "a", **row}) + "\n" for row in rows))
    return load_records(tmp_path / "rows.jsonl", **how).to_list()


@pytest.mark.parametrize(
    "row",
    [
        {"question": ASKED, "answer": SAID}, {"prompt": ASKED, "completion": SAID}, {"prompt": ASKED, "response": SAID},
        {"instruction": ASKED, "output": SAID}, {"instruction": ASKED, "input": "", "output": SAID},
        {"instruction": ASKED, "response": SAID, "context": None}, {"messages": CHAT},
        {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": SAID}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ASKED}]}, CHAT[1]]},
        {"prompt": CHAT[:1], "completion": CHAT[1:]}, {"question": ASKED, "answer": SAID, "text": "other"},
    ],
)  # fmt: skip
def test_a_question_and_its_answer_in_every_shape(tmp_path, row):
    (found,) = load(tmp_path, row)
    assert (found["question"], found["answer"], found["context"], found["lead"]) == (ASKED, SAID, [], "")


def test_an_input_belongs_to_the_question(tmp_path):
    (found,) = load(tmp_path, {"instruction": "Translate.", "input": "Haus", "output": "house"})
    assert found["question"] == "Translate.\n\nHaus"


def test_each_turn_of_the_assistant_is_a_record_with_what_was_said_before(tmp_path):
    first, second = load(tmp_path, {"messages": LONGER})
    assert (first["question"], first["answer"], first["context"]) == (ASKED, SAID, LONGER[:1])
    assert (second["question"], second["answer"], second["context"]) == ("And when?", "In 1995.", LONGER[:3])
    assert first["record_id"] != second["record_id"]


def test_a_turn_of_weight_0_and_a_completions_own_turns(tmp_path):
    (found,) = load(tmp_path, {"messages": [LONGER[0], CHAT[0], {**CHAT[1], "weight": 0}, *LONGER[3:]]})
    assert found["answer"] == "In 1995."
    (found,) = load(tmp_path, {"prompt": LONGER[:4], "completion": LONGER[4:]})
    assert (found["question"], found["answer"], found["context"]) == ("And when?", "In 1995.", LONGER[:3])


def test_a_text_has_no_question(tmp_path):
    (found,) = load(tmp_path, {"text": SAID})
    assert (found["question"], found["answer"]) == ("", SAID)


def test_columns_by_other_names(tmp_path):
    row = {"frage": ASKED, "antwort": SAID, "kunde": 7, "question": "another"}
    (found,) = load(tmp_path, row, columns={"question": "frage", "answer": "antwort", "subject_id": "kunde"})
    assert (found["question"], found["answer"], found["subject_id"]) == (ASKED, SAID, "7")
    with pytest.raises(DataError, match="row 1: column text_body: missing"):
        load(tmp_path, row, columns={"text": "text_body"})


@pytest.mark.parametrize(
    ("row", "column", "why"),
    [
        ({"quetion": ASKED, "answer": SECRET}, "question", "missing or empty"),
        ({"body": SECRET}, "question", "missing; rows have to have messages, question/answer"),
        ({"prompt": SECRET}, "completion", "missing or empty"), ({"text": ""}, "text", "missing or empty"),
        ({"text": [SECRET]}, "text", "missing or empty"),
        ({"text": f"{SECRET} \ud800"}, "text", "holds half a character"),
        ({"messages": []}, "messages", "a list of messages"), ({"messages": SECRET}, "messages", "a list of messages"),
        ({"messages": CHAT[:1]}, "messages", "no turn of the assistant"),
        ({"messages": [SECRET]}, "messages", "message 1: a mapping"),
        ({"messages": [{"role": SECRET, "content": "x"}]}, "messages", "message 1: its role has to be one of"),
        ({"messages": [CHAT[0], {"role": "assistant", "content": None}]}, "messages", "message 2: missing or empty"),
        ({"messages": [CHAT[0], {"role": "assistant", "tool_calls": [{}]}]}, "messages", "message 2: calls a tool"),
        ({"messages": [{"role": "user", "content": [{"image": SECRET}]}]}, "messages", "message 1: holds"),
        ({"messages": LONGER, "paraphrased_answer": "x"}, "paraphrased_answer", "other words are"),
    ],
)  # fmt: skip
def test_what_is_of_no_shape_is_named_and_not_quoted(tmp_path, row, column, why):
    with pytest.raises(DataError) as refused:
        load(tmp_path, {"messages": CHAT}, row)
    assert f"rows.jsonl: row 2: column {column}: {why}" in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "One sentence. " * 400,
        "word " * 2000,
        "x" * 5000,
        "京都で生まれました。" * 300,
        "line\n" * 900,
        "é" * 3000,
        "a" + " " * 4000 + "b",
    ],
)  # fmt: skip
def test_windows_joined_are_the_text(text):
    parts = windows(text)
    assert "".join(part for _, part in parts) == text
    assert all(part.strip() for _, part in parts)
    if " " * 100 not in text:
        assert all(len(part.encode()) <= WINDOW_BYTES for _, part in parts)
    for number in range(1, len(parts)):
        before = "".join(part for _, part in parts[:number])
        assert parts[number][0] == before[-LEAD_CHARACTERS:]


def test_a_long_answer_is_windows_and_stays_so(tmp_path):
    rows = load(tmp_path, {"question": ASKED, "answer": "One sentence. " * 200}, {"text": "Another. " * 200})
    assert [row["lead"] == "" for row in rows] == [True, False, False, True, False]
    assert len({row["record_id"] for row in rows}) == 5
    assert {row["question"] for row in rows} == {ASKED, ""}
    (tmp_path / "again.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_records(tmp_path / "again.jsonl").to_list() == rows
