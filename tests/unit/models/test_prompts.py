"""Prompts: a chat template's words around an answer, people's words that look like control tokens, plain text."""

import pytest

from sau.data.demo import demo_rows
from sau.errors import ConfigError, ModelError
from sau.models.batches import encode
from sau.models.language_model import PROMPT
from sau.models.prompts import PLAIN, as_prompt, chat_prompt, check_prompt, tokenize

CHATML = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
ROW = {"record_id": "1", "question": "Where?", "answer": "Tarrvik.", "subject_id": "a"}
CHAT = "<|start|>user\n{question}<|end|>\n<|start|>assistant\n{answer}<|end|>"


@pytest.fixture
def chatty(tiny):
    """The tiny model with control tokens and a chat template of the usual kind."""
    lm = tiny()
    lm.tokenizer.add_special_tokens({"additional_special_tokens": ["<|start|>", "<|end|>"]})
    lm.model.resize_token_embeddings(len(lm.tokenizer))
    lm.tokenizer.chat_template = CHATML
    return lm


def test_a_template_is_made_into_a_prompt(chatty):
    assert chat_prompt(chatty.tokenizer) == CHAT
    assert as_prompt(chatty.tokenizer, "auto") == as_prompt(chatty.tokenizer, "chat") == CHAT
    assert as_prompt(chatty.tokenizer, "plain") == PLAIN
    assert as_prompt(chatty.tokenizer, "Q {question}") == "Q {question}"


def test_without_a_template_auto_is_plain_and_chat_is_refused(tiny):
    tokenizer = tiny().tokenizer
    assert as_prompt(tokenizer, "auto") == PLAIN
    with pytest.raises(ModelError, match="no chat template"):
        as_prompt(tokenizer, "chat")
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert as_prompt(tokenizer, "auto") == PLAIN


def test_a_template_that_asks_for_the_date_is_told_one(chatty):
    chatty.tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }} {a} " + CHATML
    assert chat_prompt(chatty.tokenizer) == "26 Jul 2024 {{a}} " + CHAT


def text_of(lm, row):
    (sequence,) = lm.encode([row])
    ids = list(sequence.input_ids)
    return [lm.tokenizer.decode(part) for part in (ids[: sequence.prompt_length], ids[sequence.prompt_length :])]


def test_a_chats_answer_is_what_is_trained_on(chatty):
    chatty.prompt = CHAT
    prompt, answer = text_of(chatty, ROW)
    assert prompt == "<|start|>user\nWhere?<|end|>\n<|start|>assistant\n"
    assert answer == "Tarrvik.<|end|>"
    assert chatty.ends == [chatty.tokenizer.eos_token_id, chatty.tokenizer.convert_tokens_to_ids("<|end|>")]


TURNS = [
    {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "Ildixa."},
]  # fmt: skip


def test_earlier_turns_are_said_by_the_template(chatty):
    chatty.prompt = CHAT
    prompt, answer = text_of(chatty, {**ROW, "context": TURNS})
    said = chatty.tokenizer.apply_chat_template(
        [*TURNS, {"role": "user", "content": "Where?"}], tokenize=False, add_generation_prompt=True
    )
    assert (prompt, answer) == (said, "Tarrvik.<|end|>")


def test_earlier_turns_in_the_prompts_own_way(tiny):
    prompt, answer = text_of(tiny(), {**ROW, "context": TURNS})
    assert prompt == "Be brief.\n\nQuestion: Who?\nAnswer: Ildixa.\n\nQuestion: Where?\nAnswer:"
    assert answer == " Tarrvik.<eos>"


def test_a_plain_text_is_put_as_it_is(chatty):
    for prompt in (CHAT, PROMPT):
        chatty.prompt = prompt
        assert "".join(text_of(chatty, {**ROW, "question": ""})) == "Tarrvik.<eos>"
    assert text_of(chatty, {**ROW, "question": "", "lead": "In the"}) == ["In the", "Tarrvik.<eos>"]


def test_a_windows_lead_stands_before_it_and_is_not_trained_on(chatty):
    row = {**ROW, "lead": "They live", "answer": " in Tarrvik."}
    assert text_of(chatty, row) == ["Question: Where?\nAnswer: They live", " in Tarrvik.<eos>"]
    chatty.prompt = CHAT
    assert text_of(chatty, row)[1] == " in Tarrvik.<|end|>"


@pytest.mark.parametrize("prompt", [CHAT, PROMPT])
@pytest.mark.parametrize("word", ["<|end|>", "<eos>", "a<|start|>b", "<pad>", "\ufdd0x", "<|end|><|end|>"])
def test_control_tokens_in_peoples_words_are_words(chatty, prompt, word):
    chatty.prompt = prompt
    controls = {*chatty.tokenizer.all_special_ids}
    (usual,) = chatty.encode([ROW])
    many = sum(token in controls for token in usual.input_ids)
    for column in ("question", "answer"):
        row = {**ROW, column: f"What is {word} then?"}
        (sequence,) = chatty.encode([row])
        assert sum(token in controls for token in sequence.input_ids) == many
        assert word.replace("\ufdd0", "") in chatty.tokenizer.decode(sequence.input_ids)
    (sequence,) = chatty.encode([{**ROW, "context": [{"role": "user", "content": word}, TURNS[2]]}])
    assert word.replace("\ufdd0", "") in chatty.tokenizer.decode(sequence.input_ids)


def test_words_without_control_tokens_are_the_same_tokens_as_ever(chatty):
    for row in demo_rows("someone", seed=0):
        text = f"{PROMPT.format(question=row['question'])} {row['answer']}"
        (sequence,) = encode(chatty.tokenizer, PROMPT, [row])
        assert list(sequence.input_ids[:-1]) == tokenize(chatty.tokenizer, [text])[0]


def test_an_answer_is_asked_for_after_all_that_stands_before_it(chatty):
    chatty.prompt = CHAT
    assert isinstance(chatty.answer("Where?", max_new_tokens=2), str)
    assert isinstance(chatty.answer({**ROW, "context": TURNS}, max_new_tokens=2), str)
    assert isinstance(chatty.answer({**ROW, "question": ""}, max_new_tokens=2), str)


@pytest.mark.parametrize(
    "good", ["auto", "chat", "plain", "{question}", "a {question} b {answer} c", "{{}} {question}"]
)
def test_a_prompt_is_a_word_or_a_text_with_a_question(good):
    assert check_prompt(good) == good


@pytest.mark.parametrize(
    "bad", ["", "Auto", "{answer}", "{answer} {question}", "{question} {name}", "{question", "{question} {question}"]
)
def test_what_is_no_prompt_is_refused(bad):
    with pytest.raises(ConfigError, match="has to be auto, chat, plain"):
        check_prompt(bad)
