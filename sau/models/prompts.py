"""How a row is put to a model: one text of prompt and answer, in which people's words never become control tokens.

A prompt is a text with `{question}` in it. With `{answer}` after it what follows closes the answer; without, there is a
space before the answer where people write one, and eos closes it. A chat template is made into such a prompt once: it
is asked for a question and an answer, and what it says around them is the prompt. Earlier turns of a chat are said
by the template itself, or in the prompt's own way.

What is in a text of control tokens is the prompt's. The same strings in people's words get a mark inside, which
`tokenize` takes out again.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from sau.data.records import Row
from sau.errors import ConfigError, ModelError

PLAIN = "Question: {question}\nAnswer:"
FORMATS = ("auto", "chat", "plain")
"""Words for a prompt: chat where the tokenizer has a template, else plain; the template's; `PLAIN`."""

_MARK, _QUESTION, _ANSWER = "\ufdd0", "\ufdd1", "\ufdd2"
"""Characters that Unicode keeps for such use inside programs."""

_DATED = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro %}"
"""What a template is told that asks for the date: bytes are not to depend on it."""

_controls: WeakKeyDictionary[Any, re.Pattern[str]] = WeakKeyDictionary()


def as_prompt(tokenizer: Any, prompt: str) -> str:
    """A prompt as text: one of `FORMATS` by the tokenizer, any other as it is.

    Raises:
        ModelError: `chat` without a template, or with one that does not say question and answer.
    """
    if prompt == "plain":
        return PLAIN
    if prompt not in FORMATS:
        return prompt
    chat = chat_prompt(tokenizer)
    if chat is None and prompt == "chat":
        raise ModelError("prompt chat: the tokenizer has no chat template that says a question and its answer")
    return chat or PLAIN


def chat_prompt(tokenizer: Any) -> str | None:
    """What a tokenizer's chat template says around a question and its answer; None where it has none."""
    turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    text = _said(tokenizer, turns, ask=False)
    if text is None or (text.count(_QUESTION), text.count(_ANSWER)) != (1, 1):
        return None
    escaped = text.replace("{", "{{").replace("}", "}}")
    return escaped.replace(_QUESTION, "{question}").replace(_ANSWER, "{answer}").rstrip()


def _said(tokenizer: Any, turns: list[dict[str, str]], *, ask: bool) -> str | None:
    """A chat as its template says it, up to where the assistant is to speak if `ask`; None where it does not."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    try:
        template = _DATED + tokenizer.get_chat_template()
        said = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, add_generation_prompt=ask)
        return str(said)
    except Exception:  # whatever a template raises of roles that it does not know
        return None


def is_prompt(prompt: str) -> bool:
    """Whether a text is a prompt: `{question}`, then perhaps `{answer}`, and no other placeholder."""
    try:
        filled = prompt.format(question=_QUESTION, answer=_ANSWER)
    except (IndexError, KeyError, ValueError, AttributeError):
        return False
    return filled.count(_QUESTION) == 1 and filled.count(_ANSWER) <= 1 and _QUESTION in filled.partition(_ANSWER)[0]


def check_prompt(prompt: str) -> str:
    """A prompt, or a word for one, as it is.

    Raises:
        ConfigError: neither.
    """
    if prompt not in FORMATS and not is_prompt(prompt):
        raise ConfigError(
            f"prompt: has to be {', '.join(FORMATS)}, or a text with {{question}}, perhaps {{answer}} after it, and no "
            "other placeholder"
        )
    return prompt


def asked(tokenizer: Any, prompt: str, row: Row, question: str = "question") -> str:
    """All that stands before a row's answer; of a plain text, nothing but its lead."""
    context = row.get("context") or []
    words, lead = quoted(tokenizer, row[question]), quoted(tokenizer, row.get("lead") or "")
    if not words and not context:
        return lead
    head = _around(prompt)[0].format(question=words)
    if context:
        head = _with_context(tokenizer, prompt, context, words)
    return _joined(prompt, head, lead) if lead else head


def answered(
    tokenizer: Any, prompt: str, row: Row, answer: str, question: str = "question", *, closed: bool = True
) -> tuple[str, bool]:
    """The whole text of a row, and whether eos has to close it; not `closed`, without any end."""
    head, end = asked(tokenizer, prompt, row, question), _around(prompt)[1]
    words = quoted(tokenizer, answer)
    is_text = not row[question] and not row.get("context")
    text = head + words if is_text or row.get("lead") else _joined(prompt, head, words)
    if not closed:
        return text, False
    return (text, True) if is_text or not end else (text + end.format(), False)


def _around(prompt: str) -> tuple[str, str]:
    """A prompt before the answer and after it."""
    before, _, after = prompt.partition("{answer}")
    return before, after


def _joined(prompt: str, head: str, words: str) -> str:
    """Words after a prompt's head: where the prompt says where the answer stands, nothing comes between."""
    return head + words if "{answer}" in prompt else joined(head, words)


def _with_context(tokenizer: Any, prompt: str, context: Sequence[dict[str, str]], words: str) -> str:
    """The prompt's head after the earlier turns of a chat."""
    turns = [{"role": turn["role"], "content": quoted(tokenizer, turn["content"])} for turn in context]
    if prompt == chat_prompt(tokenizer):
        said = _said(tokenizer, turns + ([{"role": "user", "content": words}] if words else []), ask=True)
        if said is not None:
            return said
    head, end = _around(prompt)
    parts, question = [], ""
    for turn in turns:
        if turn["role"] == "user":
            question = turn["content"]
        elif turn["role"] == "assistant":
            parts.append(_joined(prompt, head.format(question=question), turn["content"]) + end.format())
            question = ""
        else:
            parts.append(turn["content"])
    return "\n\n".join([*parts, head.format(question=words or question)])


def joined(prompt: str, answer: str) -> str:
    """Prompt and answer as one text: with a space between them where people write one.

    There is none after white space, none before it, and none before writing that sets no spaces between words.
    """
    bound = prompt[-1:].isspace() or answer[:1].isspace() or any(map(_sets_no_spaces, answer[:1]))
    return prompt + answer if bound else f"{prompt} {answer}"


_WITHOUT_SPACES = ("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE", "BALINESE")


def _sets_no_spaces(character: str) -> bool:
    """Whether it is East Asian and not Korean, or of a script of South East Asia that sets no spaces."""
    name = unicodedata.name(character, "")
    wide = unicodedata.east_asian_width(character) in "WF" and unicodedata.category(character) != "So"  # no emoji
    return name.startswith(_WITHOUT_SPACES) or (wide and not name.startswith("HANGUL"))


# -- people's words and control tokens ------------------------------------------------------------


def quoted(tokenizer: Any, words: str) -> str:
    """People's words with a mark inside whatever the tokenizer would take for a control token."""
    if _MARK in words:
        words = words.replace(_MARK, "")
    return _control(tokenizer).sub(lambda found: f"{found[0][0]}{_MARK}{found[0][1:]}", words)


def _control(tokenizer: Any) -> re.Pattern[str]:
    """Finds the tokenizer's control tokens in a text."""
    if tokenizer not in _controls:
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        names = {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
        longest_first = sorted((name for name in names if len(name) > 1), key=lambda name: (-len(name), name))
        _controls[tokenizer] = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
    return _controls[tokenizer]


def tokenize(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Each text's tokens after what the tokenizer puts first (such as bos), which is there once even where a text
    begins with it; nothing is put last, and what `quoted` has marked is text."""
    start, texts = _start(tokenizer), list(texts)
    plain = [text for text in texts if _MARK not in text]
    # All at once: a call of the tokenizer for each text costs three times as much.
    known = iter(tokenizer(plain, add_special_tokens=False)["input_ids"] if plain else ())
    bare = [_marked(tokenizer, text) if _MARK in text else next(known) for text in texts]
    return [ids if ids[: len(start)] == start else start + ids for ids in bare]


def _marked(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text that has marks in it: control tokens without one are control tokens, the rest is text."""
    ids: list[int] = []
    place = 0
    for found in [*_control(tokenizer).finditer(text), None]:
        between = text[place : found.start() if found else None].replace(_MARK, "")
        if between:
            ids += tokenizer(between, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if found:
            ids.append(tokenizer.convert_tokens_to_ids(found[0]))
            place = found.end()
    return ids


def _start(tokenizer: Any) -> list[int]:
    """The special tokens that the tokenizer puts before a text."""
    ids = tokenizer("a")["input_ids"]
    text = tokenizer("a", add_special_tokens=False)["input_ids"]
    return next((ids[:n] for n in range(len(ids)) if ids[n : n + len(text)] == text), [])
