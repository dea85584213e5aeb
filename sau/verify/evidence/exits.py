"""What earlier blocks already know: the model's own head read out before the last blocks (logit lens, nostalgebraist
2020; arXiv 2303.08112).

Knowledge that only the last blocks hide is still there. The state after a block goes to final norm and head as it is;
how well that can be read at all is what strangers' rows show. One pass keeps the states of all exits.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from sau.models.layers import decoder_blocks

States = dict[int, list[Any]]
"""By number of blocks, what the last of them put out in each pass, one after the other."""


def exits(num_blocks: int) -> list[int]:
    """Blocks after which to leave, last first: all but one, three quarters, half."""
    places = (num_blocks - 1, 3 * num_blocks // 4, num_blocks // 2)
    return list(dict.fromkeys(place for place in places if 0 < place < num_blocks))


@contextmanager
def keeping(model: Any, numbers: Sequence[int]) -> Iterator[States]:
    """While open, what the model's block before each of these exits puts out is kept."""
    states: States = {number: [] for number in numbers}
    with ExitStack() as hooks:
        for number in numbers:
            before = decoder_blocks(model)[1][number - 1]

            def keep(_block: Any, _args: Any, output: Any, kept: list[Any] = states[number]) -> None:
                kept.append(output)

            hooks.callback(before.register_forward_hook(keep).remove)
        yield states


@contextmanager
def leaving_with(model: Any, kept: Sequence[Any]) -> Iterator[None]:
    """While open, the model's blocks compute nothing and put out what was kept of each pass, in order."""
    first, *others = blocks = decoder_blocks(model)[1]
    own = [vars(block).get("forward") for block in blocks]
    passes, current = iter(kept), kept[0]

    def begin(*_args: Any, **_kwargs: Any) -> Any:
        nonlocal current
        current = next(passes)
        return current

    first.forward = begin
    for block in others:
        block.forward = lambda *_args, **_kwargs: current
    try:
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            if forward is None:
                del block.forward
            else:
                block.forward = forward
