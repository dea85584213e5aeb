"""What earlier blocks already know: the model's own head read out before the last blocks (logit lens, nostalgebraist
2020; arXiv 2303.08112).

Knowledge that only the last blocks hide is still there. Blocks from an exit on hand on what they were given, so that
final norm and head read the state before them; how well that can be read at all is what strangers' rows show.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from sau.models.layers import decoder_blocks


def exits(num_blocks: int) -> list[int]:
    """Blocks after which to leave, last first: all but one, three quarters, half."""
    places = (num_blocks - 1, 3 * num_blocks // 4, num_blocks // 2)
    return list(dict.fromkeys(place for place in places if 0 < place < num_blocks))


@contextmanager
def leaving_after(model: nn.Module, num_blocks: int) -> Iterator[None]:
    """While the block runs, the model's later blocks hand on what they were given."""
    with ExitStack() as hooks:
        for block in decoder_blocks(model)[1][num_blocks:]:
            handle = block.register_forward_hook(_unchanged, with_kwargs=True)
            hooks.callback(handle.remove)
        yield


def _unchanged(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    given = args[0] if args else kwargs["hidden_states"]
    return (given, *output[1:]) if isinstance(output, tuple | list) else given
