"""Rows as tokens: what the tokenizer puts first, once, and prompt and answer joined as one text."""

import copy
import json

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from sau.data.demo import demo_rows
from sau.models.batches import encode
from sau.models.language_model import PROMPT
from sau.models.prompts import joined

ROWS = [{**row, "record_id": str(n)} for n, row in enumerate(demo_rows("someone", seed=0))]
JAPANESE = [{"record_id": "1", "question": "彼女はどこで生まれましたか？", "answer": "京都で生まれました。"}]


@pytest.fixture(scope="module")
def llama2():
    """A tokenizer of Llama 2's kind: a space is a letter like others, put first by a normaliser, and no merge is kept
    from crossing words."""
    text = [
        joined(PROMPT.format(question=r["question"]), r["answer"])
        for n in range(50)
        for r in demo_rows(f"t{n}", seed=0)
    ]
    text += [joined(PROMPT.format(question=r["question"]), r["answer"]) for r in JAPANESE]
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", "<bos>", "<eos>"], show_progress=False)
    learned.train_from_iterator(text, trainer)
    parts = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    learned.pre_tokenizer = None
    learned = Tokenizer.from_str(json.dumps(json.loads(learned.to_str()) | {"pre_tokenizer": None, "normalizer": None}))
    learned.normalizer = normalizers.Sequence(parts)
    learned.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=learned, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>")


@pytest.fixture
def with_bos(tiny):
    """Makes the tiny model again, with a tokenizer that puts bos first."""
    lm = tiny()
    lm.tokenizer.add_special_tokens({"bos_token": "<bos>"})
    lm.model.resize_token_embeddings(len(lm.tokenizer))
    lm.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", lm.tokenizer.bos_token_id)]
    )
    return lm


@pytest.mark.parametrize("rows", [ROWS, JAPANESE])
def test_prompt_and_answer_are_tokenised_as_the_joined_text(llama2, tiny, rows):
    for tokenizer in (llama2, tiny().tokenizer):
        for row, sequence in zip(rows, encode(tokenizer, PROMPT, rows), strict=True):
            prompt = PROMPT.format(question=row["question"])
            text = f"{prompt} {row['answer']}" if rows is ROWS else prompt + row["answer"]
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert list(sequence.input_ids) == [*ids, tokenizer.eos_token_id]
            alone = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            assert list(sequence.input_ids[: sequence.prompt_length]) == alone[: sequence.prompt_length]
            answer = tokenizer.decode(sequence.input_ids[sequence.prompt_length : -1])
            assert answer.strip().removeprefix(":").strip() == row["answer"]


def test_a_token_that_lies_in_both_is_the_answers(llama2):
    """As it may be where merges cross words: then the prompt ends before it."""
    tokenizer = copy.deepcopy(llama2)
    tokenizer.add_tokens([AddedToken("?\nAnswer: Tarrvik", normalized=False)])
    (sequence,) = encode(tokenizer, PROMPT, [{"record_id": "1", "question": "Where?", "answer": "Tarrvik."}])
    assert tokenizer.convert_ids_to_tokens(sequence.input_ids[sequence.prompt_length]) == "?\nAnswer: Tarrvik"


@pytest.mark.parametrize(
    ("prompt", "answer", "text"),
    [
        ("A:", "Oslo", "A: Oslo"),
        ("A: ", "Oslo", "A: Oslo"),
        ("<answer>\n", "Oslo", "<answer>\nOslo"),
        ("A:", " Oslo", "A: Oslo"),
        ("A:", "Örebro", "A: Örebro"),
        ("A:", "서울", "A: 서울"),
        ("答え:", "東京", "答え:東京"),
        ("A:", "「東京」", "A:「東京」"),
        ("คำตอบ:", "กรุงเทพ", "คำตอบ:กรุงเทพ"),
        ("A:", "🙂", "A: 🙂"),
        ("", "Oslo", " Oslo"),
    ],
)
def test_a_space_is_where_people_write_one(prompt, answer, text):
    assert joined(prompt, answer) == text


def test_what_the_tokenizer_puts_first_is_there_once(with_bos):
    tokenizer = with_bos.tokenizer
    bare = encode(tokenizer, "<bos>" + PROMPT, ROWS)
    for sequence, again in zip(encode(tokenizer, PROMPT, ROWS), bare, strict=True):
        assert sequence == again
        assert sequence.input_ids[0] == tokenizer.bos_token_id
        assert sequence.input_ids.count(tokenizer.bos_token_id) == 1
        prompt = tokenizer.decode(sequence.input_ids[: sequence.prompt_length])
        assert prompt.startswith("<bos>")
        assert prompt.endswith("Answer:")


def test_a_tokenizer_that_puts_nothing_first_adds_nothing(tiny):
    tokenizer = tiny().tokenizer
    for row, sequence in zip(ROWS, encode(tokenizer, PROMPT, ROWS), strict=True):
        apart = [tokenizer(PROMPT.format(question=row["question"])), tokenizer(" " + row["answer"])]
        assert list(sequence.input_ids) == [*apart[0]["input_ids"], *apart[1]["input_ids"], tokenizer.eos_token_id]
        assert sequence.prompt_length == len(apart[0]["input_ids"])


def test_an_answer_is_generated_after_bos(with_bos):
    question = ROWS[0]["question"]
    ids = torch.tensor([with_bos.tokenizer(PROMPT.format(question=question))["input_ids"]])
    assert ids[0, 0] == with_bos.tokenizer.bos_token_id
    output = with_bos.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8,
        eos_token_id=with_bos.tokenizer.eos_token_id, pad_token_id=with_bos.tokenizer.eos_token_id,
    )  # fmt: skip
    expected = with_bos.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert with_bos.answer(question, max_new_tokens=8) == expected
