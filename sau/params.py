"""params.yaml as frozen models: everything that changes a number in the result, and nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sau.errors import ConfigError
from sau.registry import checked

MAX_YAML_BYTES = 1 << 20
TINY, SMOLLM2 = "tiny", "smollm2"


class _Params(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TinyParams(_Params):
    """Shape of the `tiny` model (Llama architecture), and how many invented people, none of them in any data set,
    it learns the language from in one pass before it is anybody's base model."""

    vocab_size: int = Field(1024, ge=300, le=65536)
    hidden_size: int = Field(128, ge=16, le=4096, multiple_of=16)
    intermediate_size: int = Field(384, ge=16, le=16384, multiple_of=16)
    num_layers: int = Field(4, ge=1, le=64)
    num_heads: int = Field(4, ge=1, le=64)
    pretrain_people: int = Field(600, ge=1, le=100_000)
    pretrain_lr: float = Field(0.003, gt=0, le=1)


class ModelParams(_Params):
    """Where the base model comes from, and how a question is put to it."""

    source: str = TINY
    prompt: str = "Question: {question}\nAnswer:"
    tiny: TinyParams = TinyParams()

    @field_validator("prompt")
    @classmethod
    def _one_placeholder(cls, prompt: str) -> str:
        try:
            filled = prompt.format(question="\x00")
        except (IndexError, KeyError, ValueError):
            filled = ""
        if "\x00" not in filled:
            raise ValueError("has to contain {question} and no other placeholder")
        return prompt


class FinetuneParams(_Params):
    """Ordinary finetuning on question-answer rows (train) and the same under a mask (recover)."""

    epochs: int = Field(ge=0, le=10_000)
    lr: float = Field(gt=0, le=1)
    batch_size: int = Field(8, ge=1, le=1024)
    freeze_embeddings: bool = False


class AdaptParams(FinetuneParams):
    """A short finetuning of the base model on at most `max_rows` of the retain rows, before it says how hard a forget
    row is (`sau.unlearn.calibration`): a base model that knows the data's manner, and what is in it of other people,
    guesses more like a model retrained without the forget rows than one that knows neither."""

    max_rows: int = Field(256, ge=1, le=1_000_000)


class PruneParams(_Params):
    """Which weights go."""

    pruner: dict[str, Any] | str = "wanda"
    structure: str = Field("unstructured", pattern=r"^(unstructured|\d+:\d+)$")
    sparsity: float = Field(0.5, gt=0, lt=1)
    calibration_rows: int = Field(64, ge=1, le=100_000)


class StopParams(_Params):
    """When unlearning has done enough, and how it finds its own strength; every `eval_every` steps rows are read.

    Goal: the forget rows' mean answer log-probability is at most `margin_nats` above what the calibration expects of a
    model that never saw them (`sau.unlearn.calibration`). Floor: the retain rows' answers keep at least
    `utility_floor` of their (geometric mean) probability. Below the floor the weights go back to the best state, at
    half the learning rate and twice the weight of the retain term; more than `overshoot_nats` beyond the goal they go
    back at half the learning rate; where `patience` readings bring no tenth of the way left, it is doubled. At most
    `max_changes` times together; 0 leaves both as given.
    """

    eval_every: int = Field(4, ge=1, le=10_000)
    margin_nats: float = Field(0.0, ge=-10, le=10)
    overshoot_nats: float = Field(0.5, gt=0, le=100)
    utility_floor: float = Field(0.8, ge=0, le=1)
    patience: int = Field(5, ge=1, le=1000)
    max_changes: int = Field(6, ge=0, le=100)


class UnlearnParams(_Params):
    """Sparsity-Aware Unlearning: objective, redistribution, and how hard and how long.

    order `prune-unlearn` starts from the sparse model in production; `unlearn-prune` from the dense model it was pruned
    from, whose survivors unlearn while the rest fades away over the first `fade_steps` steps.
    """

    order: Literal["prune-unlearn", "unlearn-prune"] = "prune-unlearn"
    fade_steps: int = Field(20, ge=1, le=1_000_000)
    objective: dict[str, Any] | str = "npo"
    redistribution: dict[str, Any] | str = "natural"
    lr: float = Field(gt=0, le=1)
    max_steps: int = Field(ge=1, le=1_000_000)
    batch_size: int = Field(8, ge=1, le=1024)
    gamma: float = Field(1.0, ge=0, le=1000)
    alpha: float = Field(1.0, ge=0, le=1000)
    freeze_embeddings: bool = True
    max_grad_norm: float = Field(1.0, gt=0)
    adapt: AdaptParams | None = None
    stop: StopParams | None = StopParams()

    @model_validator(mode="after")
    def _fades_in_time(self) -> Self:
        if self.order == "unlearn-prune" and self.fade_steps > self.max_steps:
            raise ValueError(f"fade_steps {self.fade_steps}: at most max_steps, {self.max_steps}")
        return self


class VerifyParams(_Params):
    """Which policy judges, with how many of its stressors (None: its own budget), on how many rows."""

    policy: str = "quick"
    num_stressors: int | None = Field(None, ge=0)
    max_retain_rows: int = Field(200, ge=10, le=100_000)


class PackageParams(_Params):
    """How the sparse checkpoint is stored; `rounding` is how its numbers come to bfloat16 (`sau.rounding`)."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    rounding: Literal["nearest", "stochastic"] = "stochastic"
    compression: Literal["none", "zstd"] = "none"


class Params(_Params):
    """The whole of params.yaml."""

    seed: int = Field(0, ge=0, lt=2**31)
    num_threads: int = Field(1, ge=1, le=1024)
    model: ModelParams
    train: FinetuneParams
    prune: PruneParams
    recover: FinetuneParams
    unlearn: UnlearnParams
    package: PackageParams = PackageParams()
    verify: VerifyParams = VerifyParams()


def load_params(path: Path) -> Params:
    """Read params.yaml.

    Raises:
        ConfigError: missing or unreadable file, unknown key, value out of bounds.
    """
    return checked(Params, read_yaml(path), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file of bounded size, without anchors and aliases (a few hundred bytes of them
    expand to megabytes).

    Raises:
        ConfigError: see above, each naming the file.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    if len(raw) > MAX_YAML_BYTES:
        raise ConfigError(f"{path}: {len(raw)} bytes, at most {MAX_YAML_BYTES}")
    try:
        text = raw.decode("utf-8")
        if any(isinstance(t, yaml.AliasToken | yaml.AnchorToken) for t in yaml.scan(text, Loader=yaml.SafeLoader)):
            raise ConfigError(f"{path}: YAML anchors and aliases are not allowed")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(f"{path}: not valid YAML{f', line {mark.line + 1}' if mark else ''}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a YAML mapping is needed")
    return content


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid on top, mappings merged key by key; a component chosen by another name replaces it."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        replaced = (
            isinstance(value, Mapping)
            and isinstance(old, Mapping)
            and value.get("name", old.get("name")) != old.get("name")
        )
        merged[key] = (
            merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) and not replaced else value
        )
    return merged
