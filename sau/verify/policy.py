"""The policy: which checks are run, how strict they are, and what makes them mandatory. Versioned and digested."""

import hashlib
import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, field_validator, model_validator

from sau.config import checked, read_yaml
from sau.errors import ConfigError, some
from sau.registry import built
from sau.verify.checks.base import PACKAGE as CHECKS
from sau.verify.checks.base import Check, Null
from sau.verify.metrics.base import PACKAGE as METRICS
from sau.verify.metrics.base import Metric
from sau.verify.stressors.base import PACKAGE as STRESSORS
from sau.verify.stressors.base import Stressor

SHIPPED = Path(__file__).parent / "policies"
_SHOWN, _ID = 5, 64


class Policy(BaseModel):
    """What a verdict is measured against.

    Attributes:
        confidence: of every verdict, over the whole battery (Holm).
        against: the null that checks of forgetting are read against, see `sau.verify.checks.base`.
        min_people: so many that no model has seen the population null needs.
        widest_margin: share up to which the population null widens its margins where there are few rows.
        stressed_slack: share that may be left beyond the margins after a stressor, which adds noise of its own.
        min_forget_records, min_holdout_records: with fewer, checks beside a retrained model that average over records
            are INCONCLUSIVE.
        blind_limit: membership is void where words alone reach a higher AUC, beyond doubt.
        num_decoys: per forget record, where the data has as many.
        max_decoy_records: forget records ranked among decoys, a seeded choice; they cost most of the time.
        num_samples: answers sampled for `sampling_leak`.
        form_rows: of each person the model never saw, so many rows are put into one form of the question, others into
            the next; None: all into each. Of the one who asked all are.
        metrics: reported for every model beside the verdict, which does not rest on them.
        checks: at least one of forgetting mandatory.
        stressors: changes of the model after which `stressed_checks`, by id, have to hold again.
        earlier_checks: by id, those that who was forgotten earlier is judged by again with every later version.
        num_stressors: the budget: so many of them run, the first ones; None: all. A mandatory one beyond it leaves the
            verdict INCONCLUSIVE, and the others are named as not run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")
    version: int = Field(ge=1)
    confidence: float = Field(0.95, ge=0.8, lt=1)
    against: Null = "population"
    min_people: int = Field(20, ge=4)
    widest_margin: float = Field(0.0, ge=0, lt=1)
    stressed_slack: float = Field(0.0, ge=0, lt=1)
    min_forget_records: int = Field(10, ge=2)
    min_holdout_records: int = Field(20, ge=2)
    blind_limit: float = Field(0.6, ge=0.5, le=1)
    num_decoys: int = Field(99, ge=19, le=999)
    max_decoy_records: int = Field(40, ge=1)
    num_samples: int = Field(300, ge=1, le=100_000)
    form_rows: int | None = Field(None, ge=1)
    metrics: tuple[Annotated[SerializeAsAny[Metric], built(Metric, METRICS)], ...]
    checks: tuple[Annotated[SerializeAsAny[Check], built(Check, CHECKS)], ...]
    stressors: tuple[Annotated[SerializeAsAny[Stressor], built(Stressor, STRESSORS)], ...] = ()
    stressed_checks: tuple[str, ...] = ()
    num_stressors: int | None = Field(None, ge=0)
    earlier_checks: tuple[str, ...] = ()

    @field_validator("checks")
    @classmethod
    def _a_mandatory_one(cls, checks: tuple[Check, ...]) -> tuple[Check, ...]:
        if not any(check.mandatory and check.about_forgetting for check in checks):
            raise ValueError("at least one check of forgetting has to be mandatory, or every useful model would pass")
        _no_twins([check.id for check in checks])
        return checks

    @model_validator(mode="after")
    def _stressed_checks_exist(self) -> "Policy":
        _no_twins([stressor.id for stressor in self.stressors])
        known = [check.id for check in self.checks]
        for name, chosen in (("stressed_checks", self.stressed_checks), ("earlier_checks", self.earlier_checks)):
            if odd := [i for i in chosen if i not in known]:
                raise ValueError(f"{name}: {_shown(odd)}: has to be among the checks: {', '.join(known)}")
        if bool(self.stressors) != bool(self.stressed_checks):
            raise ValueError("stressors and stressed_checks need each other")
        return self

    @property
    def stressors_run(self) -> tuple[Stressor, ...]:
        return self.stressors[: self.num_stressors]

    @property
    def stressors_left_out(self) -> tuple[Stressor, ...]:
        return self.stressors[len(self.stressors_run) :]

    @property
    def for_earlier(self) -> "Policy | None":
        """What judges who was forgotten earlier on a later version, beside people: `earlier_checks` on the model as it
        is; None where there are none."""
        checks = tuple(check for check in self.checks if check.id in self.earlier_checks)
        without = {"stressors": (), "stressed_checks": (), "num_stressors": None, "metrics": ()}
        return self.model_copy(update={"checks": checks, "against": "population", **without}) if checks else None

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical content, defaults included."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()


def _no_twins(ids: list[str]) -> None:
    if twice := sorted({i for i in ids if ids.count(i) > 1}):
        raise ValueError(f"given twice: {_shown(twice)}")


def _shown(ids: list[str]) -> str:
    """Ids as an error names them; what is none may be anything, of any length."""
    named = [i if len(i) <= _ID and i.isprintable() else "(no id)" for i in ids]
    return some(named, _SHOWN)


def load_policy(source: str | Path, *, num_stressors: int | None = None, null: Null | None = None) -> Policy:
    """A shipped policy by name (quick, standard, strict), or one from a YAML file.

    Args:
        num_stressors, null: another budget or null than the policy's own; they are part of the digest.

    Raises:
        ConfigError: no such policy; an unknown check, key or value, each named with what is allowed.
    """
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}
    path = shipped.get(str(source), Path(source))
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"policy {str(source)[:_ID]!r}: has to be one of {', '.join(shipped)}, or a .yaml file")
    own = {name: value for name, value in (("num_stressors", num_stressors), ("against", null)) if value is not None}
    return checked(Policy, {**read_yaml(path), **own}, f"policy {path.stem[:_ID]!r}")
