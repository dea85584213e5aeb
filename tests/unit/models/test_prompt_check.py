"""The check of the prompt: rows are likeliest as the model was trained on them, and another prompt is doubted."""

import pytest

from sau.data.demo import demo_rows
from sau.models.prompt_check import check_prompt_of
from sau.models.prompts import PLAIN
from sau.training.finetune import FinetuneParams, finetune

ROWS = demo_rows("a", seed=1)
CHAT = "U: {question}\nReply from the desk: {answer}<eos>"


@pytest.fixture(scope="module")
def trained(tiny):
    lm = tiny()
    lm.prompt = CHAT
    finetune(lm, lm.encode(ROWS), FinetuneParams(epochs=30, lr=0.01, batch_size=10, freeze_embeddings=False), seed=0)
    return lm


def test_the_prompt_of_training_holds(trained):
    trained.prompt = CHAT
    found = check_prompt_of(trained, ROWS)
    assert found.holds
    assert (found.num_rows, set(found.logps)) == (20, {"chosen", "plain", "the question alone"})
    assert found.logps["chosen"] == max(found.logps.values())


def test_another_prompt_is_doubted_and_the_right_one_named(trained):
    trained.prompt = PLAIN
    trained.tokenizer.chat_template = (
        "{% for m in messages %}{{ 'U: ' if m['role'] == 'user' else 'Reply from the desk: ' }}{{ m['content'] }}"
        "{{ '\n' if m['role'] == 'user' else eos_token }}{% endfor %}"
    )
    found = check_prompt_of(trained, ROWS)
    assert found.prompts["chat"] == CHAT
    assert found.best == "chat"
    assert not found.holds
    assert "is this the prompt the model was trained with? chat fits better" in found.words


def test_plain_texts_say_nothing_of_a_prompt(trained):
    assert check_prompt_of(trained, [{**row, "question": ""} for row in ROWS]).num_rows == 0
