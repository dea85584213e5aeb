"""Export: a sparse checkpoint as the dense folder that its users serve, looked at before it is anybody's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from sau.checkpoint.card import card_of
from sau.checkpoint.delta import whole_or_nothing
from sau.checkpoint.manifest import DTYPES, SparseCheckpoint, read_manifest
from sau.checkpoint.sparse import FULL_PRECISION, open_sparse
from sau.errors import CheckpointError
from sau.mask import Mask, check_mask
from sau.models.dense import change_config, model_from_state, save_dense, stored_state
from sau.models.folder import config_of
from sau.models.language_model import quiet
from sau.models.rounding import round_to

CARD = "README.md"

Card = Callable[[SparseCheckpoint], str]
"""A checkpoint's manifest -> its model card, Markdown."""


def export(
    folder: str | Path,
    target: str | Path,
    *,
    dtype: str | None = None,
    rounding: str = FULL_PRECISION.rounding,
    seed: int = 0,
    card: Card = card_of,
) -> None:
    """Write a sparse checkpoint as a dense Hugging Face folder for stock tools, in the form it was served in.

    That is its dtype, about its number of files, and byte for byte what lay beside the weights: chat template,
    generation config, tokenizer. The folder appears once stock transformers has opened it with nothing missing or
    unexpected, every number as in the checkpoint and every pruned one zero.

    Args:
        dtype: None for the checkpoint's own; a narrower one makes another model, of which no verdict speaks.
        rounding, seed: how numbers come to a narrower dtype, see `sau.models.rounding`.
        card: what writes the model card.

    Raises:
        CheckpointError: the target exists and is not empty, the checkpoint is damaged, or what was written does not
            open as it should; nothing is left at the target then.
    """
    manifest = read_manifest(folder)
    chosen = dtype or manifest.dtype
    with whole_or_nothing(Path(target)) as part:
        lm = open_sparse(folder)
        state = round_to(stored_state(lm.model), DTYPES[chosen], rounding, seed=seed)
        lm.model = model_from_state(lm.model.config, state, dtype=DTYPES[chosen])
        save_dense(lm, part)
        content = config_of(part)
        key = "torch_dtype" if "torch_dtype" in content else "dtype"
        if content.get(key) != chosen:
            change_config(part, **{key: chosen})
        (part / CARD).write_text(card(manifest), encoding="utf-8")
        lm.model = None  # so that the weights are here twice, not three times
        check_export(part, state, lm.mask or {})


def check_export(folder: Path, state: dict[str, Tensor], mask: Mask) -> None:
    """Open a dense folder as anybody would, and compare.

    Args:
        state: the tensors that it has to hold, each once.

    Raises:
        CheckpointError: names what is missing, unexpected, or another number.
    """
    with quiet():
        opened: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", trust_remote_code=False, output_loading_info=True
        )
        AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model, info = opened
    if odd := sorted({*info["missing_keys"]} | {*info["unexpected_keys"]} | {*info["mismatched_keys"]}):
        raise CheckpointError(f"export: stock transformers finds missing or unexpected weights: {', '.join(odd[:5])}")
    loaded = model.state_dict()
    for name, value in state.items():
        if not _same(loaded[name], value):
            raise CheckpointError(f"export: stock transformers opens {name} with other numbers")
    check_mask(model, mask)


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one, other.to(one.dtype))
