"""What a model's numbers follow from, as one digest: to find again what has been computed from it before."""

import hashlib
import json
from typing import Any

import torch
import transformers

from sau.models.autocast import is_autocast
from sau.models.language_model import LanguageModel

_WHERE_FROM = ("_name_or_path", "architectures", "dtype", "transformers_version")
"""Of a config: what is otherwise in memory than from disk, and says nothing more of the model."""


def identity(lm: LanguageModel, *what: Any) -> str:
    """SHA-256 of the weights, config, tokenizer and prompt, of how and by which libraries the model computes here, and
    of `what` is computed, as JSON values."""
    digest = hashlib.sha256()
    for name, tensor in lm.model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    here = (torch.__version__, transformers.__version__, torch.get_num_threads(), str(lm.model.device))
    vocabulary = sorted(lm.tokenizer.get_vocab().items())
    config = {key: value for key, value in lm.model.config.to_dict().items() if key not in _WHERE_FROM}
    rest = (here, type(lm.model).__name__, is_autocast(lm.model), config, vocabulary, lm.prompt, what)
    digest.update(json.dumps(rest, sort_keys=True, default=str).encode())
    return digest.hexdigest()
