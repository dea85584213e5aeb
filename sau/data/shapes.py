"""The shapes that rows come in, each as questions and answers: what is trained on is always an answer.

    messages        a chat (roles and contents; ShareGPT's `conversations`, too): a record for each turn of the
                    assistant, with the user's turn before it as the question, all earlier ones as its context
    question/answer, prompt/completion, prompt/response, instruction (and input)/output
    text            no question: all of it is the answer

A long answer becomes several records, windows of it: each has a little of what stands before it as its lead.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sau.errors import DataError

WINDOW_BYTES = 1200
LEAD_CHARACTERS = 200

Refuse = Callable[[str, str], DataError]
"""Makes the error of a column, from its name and what is wrong with it."""

_CHATS = ("messages", "conversations", "conversation")
_PAIRS = (("question", "answer"), ("prompt", "completion"), ("prompt", "response"), ("instruction", "output"),
          ("instruction", "response"))  # fmt: skip
_ROLES = {"system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
          "gpt": "assistant", "tool": "tool", "function": "tool"}  # fmt: skip
NAMES = {*_CHATS[:1], *(name for pair in _PAIRS for name in pair), "input", "text", "record_id", "subject_id",
         "subject_ids", "paraphrased_question", "paraphrased_answer", "perturbed_answer"}  # fmt: skip
"""Columns that a row may have."""
SHAPES = "messages, question/answer, prompt/completion, instruction/output or text"


def turns_of(raw: Mapping[str, Any], refuse: Refuse) -> Iterator[dict[str, Any]]:
    """A raw row as `question`, `answer` and `context`, once for each answer in it.

    Raises:
        DataError: of no known shape, or malformed.
    """
    chat = next((column for column in _CHATS if raw.get(column) is not None), None)
    if chat:
        yield from _chat(raw[chat], chat, refuse)
        return
    pair = next((pair for pair in _PAIRS if all(column in raw for column in pair)), None)
    if pair is None:
        begun = next((pair for pair in _PAIRS if pair[0] in raw or pair[1] in raw), None)
        if begun is None and "text" in raw:
            yield {"question": "", "answer": text_of(raw["text"], "text", refuse), "context": []}
            return
        if begun is None:
            raise refuse("question", f"missing; rows have to have {SHAPES}, see --column")
        pair = begun
    question, answer = (raw.get(column) for column in pair)
    if isinstance(question, list) and isinstance(answer, list):  # a chat in two parts
        yield from _chat([*question, *answer], pair[1], refuse, first=len(question))
        return
    question = text_of(question, pair[0], refuse)
    more = raw.get("input", raw.get("context")) if pair[0] == "instruction" else None
    if more not in (None, ""):
        question = f"{question}\n\n{text_of(more, 'input', refuse)}"
    yield {"question": question, "answer": text_of(answer, pair[1], refuse), "context": []}


def text_of(value: Any, column: str, refuse: Refuse) -> str:
    """A cell's text.

    Raises:
        DataError: not text, empty, or not writable as UTF-8.
    """
    if not isinstance(value, str) or not value.strip():
        raise refuse(column, "missing or empty, a non-empty string is needed")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise refuse(column, "holds half a character (a lone surrogate)") from None
    return value


def _chat(value: Any, column: str, refuse: Refuse, *, first: int = 0) -> Iterator[dict[str, Any]]:
    """The assistant's turns of a chat, from message number `first` on; a message of weight 0 is not trained on."""
    if not isinstance(value, list) or not value:
        raise refuse(column, "a list of messages is needed")
    said: list[dict[str, str]] = []
    found = 0
    for number, message in enumerate(value):
        turn, trained = _message(message, number, column, refuse)
        if turn["role"] == "assistant" and number >= first and trained:
            found += 1
            asked = said[-1]["content"] if said and said[-1]["role"] == "user" else ""
            yield {"question": asked, "answer": turn["content"], "context": said[:-1] if asked else said[:]}
        said.append(turn)
    if not found:
        raise refuse(column, "no turn of the assistant, which is what is trained on")


def _message(message: Any, number: int, column: str, refuse: Refuse) -> tuple[dict[str, str], bool]:
    """One message as role and content, and whether it is trained on."""

    def bad(why: str) -> DataError:
        return refuse(column, f"message {number + 1}: {why}")

    if not isinstance(message, Mapping):
        raise bad("a mapping with role and content is needed")
    role = _ROLES.get(str(message.get("role", message.get("from"))))
    if role is None:
        raise bad(f"its role has to be one of {', '.join(_ROLES)}")
    if message.get("tool_calls"):
        raise bad("calls a tool, which is not read")
    content = message.get("content", message.get("value"))
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise bad("holds something other than text")
        content = "".join(map(str, parts))
    text = text_of(content, column, lambda _column, why: bad(why))
    return {"role": role, "content": text}, message.get("weight") != 0


def windows(answer: str, num_bytes: int = WINDOW_BYTES) -> list[tuple[str, str]]:
    """A text in parts of at most so many bytes of UTF-8, each with its lead: the end of what stands before it.

    The parts, joined, are the text. A bound is a line's end, else a sentence's, else a space, else any character.
    """
    parts: list[tuple[str, str]] = []
    start = 0
    while start < len(answer):
        ahead = answer[start : start + num_bytes]
        room = ahead.encode()[:num_bytes].decode(errors="ignore")
        end = len(room)
        if start + end < len(answer):
            bounds = (max(room.rfind(mark) for mark in marks) for marks in _BOUNDS)
            end = next((at + (room[at] in ".!?。") for at in bounds if at > end // 2), end)
        if parts and not room[:end].strip():
            parts[-1] = (parts[-1][0], parts[-1][1] + room[:end])  # white space alone is no part
        else:
            parts.append((answer[max(0, start - LEAD_CHARACTERS) : start], room[:end]))
        start += end
    return parts


_BOUNDS = (("\n",), (". ", "! ", "? ", "。"), (" ",))
