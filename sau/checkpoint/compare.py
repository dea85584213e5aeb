"""Two checkpoints beside each other: which of weights, mask and side files differ, and by how much."""

from dataclasses import dataclass
from pathlib import Path

from sau.checkpoint.manifest import check_files, is_weights, stored_tensors


@dataclass(frozen=True)
class Difference:
    """What differs.

    Attributes:
        weights, mask, side_files: whether they do.
        share_of_weights: of the stored numbers, in [0, 1]; None where the masks differ, so that none is beside another.
        largest: the largest absolute difference of two stored numbers, None likewise.
        files: names of the side files that differ.
    """

    weights: bool
    mask: bool
    side_files: bool
    share_of_weights: float | None = 0.0
    largest: float | None = 0.0
    files: tuple[str, ...] = ()


def compare(one: Path, other: Path) -> Difference:
    """How checkpoint `other` differs from `one`; both are hashed whole.

    Raises:
        CheckpointError: either is damaged.
    """
    first, second = check_files(one), check_files(other)
    names = {name for name in first.files.keys() | second.files.keys() if not is_weights(name)}
    found = Difference(
        weights=first.weights_digest != second.weights_digest,
        mask=first.mask_digest != second.mask_digest,
        side_files=first.side_digest != second.side_digest,
        files=tuple(sorted(name for name in names if first.files.get(name) != second.files.get(name))),
    )
    if not found.weights:
        return found
    ours, theirs = stored_tensors(one, first), stored_tensors(other, second)
    if {n: t.shape for n, t in ours.items()} != {n: t.shape for n, t in theirs.items()} or found.mask:
        return Difference(**vars(found) | {"share_of_weights": None, "largest": None})
    numbers = [name for name in ours if not name.endswith(".mask")]
    moved = sum(int((ours[name] != theirs[name]).sum()) for name in numbers)
    largest = max(float((ours[name].float() - theirs[name].float()).abs().max()) for name in numbers)
    share = moved / sum(ours[name].numel() for name in numbers)
    return Difference(**vars(found) | {"share_of_weights": share, "largest": largest})
