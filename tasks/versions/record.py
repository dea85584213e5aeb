"""The record of a version: what made it, what it is, how it was judged. MLflow keeps it as tags of the version."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, computed_field

from sau.errors import TrackingError
from tasks.engines.registered import CHAMPION, Registered
from tasks.engines.repository import tag_name

BOOTSTRAP = "BOOTSTRAP"
UNJUDGED = "UNJUDGED"
"""Taken from git, and nothing shows how it was judged: it leads where a person says so."""
MAY_LEAD = ("PASS", BOOTSTRAP)
_LIBRARIES = ("torch", "numpy", "transformers", "tokenizers", "safetensors", "scipy", "datasets")
_NOT_TAGS = {"line", "number", "aliases", "run_id", "source", "tag", "verdicts"}
_VERDICTS = "verdicts"
"""The tag with all verdicts on a version as a JSON list, so that one write changes which one counts: the last."""
_OF_BEFORE = {"parent_digest": "parent_digest", "weights_digest": "model_digest", "side_digest": ""}
"""Tags that versions of before the weights had a digest of their own have by another name, or lack."""


class Verdict(BaseModel):
    """One verdict on a version's weights; a further one by the same policy and null takes its place.

    Attributes:
        verdict, policy, policy_digest: what was said, by which policy.
        null: population or retrained; "" where nothing was judged, or where it was kept in words alone.
        judged_against, reference: the null in words, and beside which retrained version.
        judged_at: ISO 8601, UTC.
        verdict_run: the run that holds it, where that is a later one than the version's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: str
    policy: str = ""
    policy_digest: str = ""
    null: str = ""
    judged_against: str = ""
    reference: str = ""
    judged_at: str = ""
    verdict_run: str = ""

    @property
    def judge(self) -> tuple[str, str]:
        """By what it was given: policy digest and null."""
        return self.policy_digest, self.null

    @property
    def words(self) -> str:
        """The verdict with its policy, where it has one."""
        return f"{self.verdict} ({self.policy})" if self.policy else self.verdict


class VersionRecord(Verdict):
    """One version of a model line, with the verdict on it that counts. Digests are SHA-256 of ours and md5 where DVC
    made them; "" where there is none.

    Attributes:
        line, number, aliases, run_id, source: what the registry says; number 0 while it is not registered.
        request_ids: the requests it was made for; none for a first version.
        parent, parent_digest: number and weights digest of the version it was made from.
        weights_digest, mask_digest, side_digest, sparsity, structure: of its checkpoint.
        covered: in [0, 1], the share of all numbers that lie in masked matrices; 0 where nobody wrote it down.
        adopted: SHA-256 of the weights of the folder that a first version was adopted from, as they lay there.
        merged: what became of an adapter that was merged before, in words; "" where none was.
        memory: of the step that took most, planned and measured, in words.
        data_md5, forget_md5, checkpoint_md5: what DVC pins.
        params_digest, training_digest: of all parameters, and of those a first version depends on; a method's defaults
            are in both.
        code_commit, git_commit, checkout_dirty: the code that ran, and the commit with the recipe.
        verdicts: all that were given, the one that counts last; empty where it is the only one.
        audited, audit: when a retrained model was put beside it, and what came of that, in words.
        made_champion_by: who made it lead by hand last, and when.
        taken_from_git: who took it into this registry from git's tag, and when.
    """

    line: str
    number: int = 0
    aliases: tuple[str, ...] = ()
    run_id: str = ""
    source: str = ""
    request_ids: tuple[str, ...] = ()
    parent: int | None = None
    parent_digest: str = ""
    weights_digest: str
    mask_digest: str
    side_digest: str
    sparsity: float
    structure: str
    covered: float = 0.0
    adopted: str = ""
    merged: str = ""
    memory: str = ""
    data_md5: str
    forget_md5: str = ""
    checkpoint_md5: str
    params_digest: str
    training_digest: str
    code_commit: str
    git_commit: str
    checkout_dirty: bool
    verdicts: tuple[Verdict, ...] = ()
    audited: str = ""
    audit: str = ""
    made_champion_by: str = ""
    taken_from_git: str = ""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def tag(self) -> str:
        """`<line>@v<N>`, also the name of its git tag."""
        return tag_name(self.line, self.number)

    @property
    def may_lead(self) -> bool:
        """Whether its verdict allows it to be champion, or a person has said so of one that nothing is known of."""
        return self.verdict in MAY_LEAD or (self.verdict == UNJUDGED and bool(self.made_champion_by))

    @property
    def leads(self) -> bool:
        return CHAMPION in self.aliases

    @property
    def against(self) -> str:
        """What it was judged against, in words; versions of before the nulls had names have a retrained one or none."""
        return self.judged_against or self.reference or "nothing"

    @property
    def judged(self) -> Verdict:
        """The verdict that counts."""
        return Verdict(**self.model_dump(include=set(Verdict.model_fields)))

    @property
    def judged_in(self) -> str:
        """The run that holds its verdict."""
        return self.verdict_run or self.run_id

    @property
    def origin(self) -> str:
        """In words, what it was made from."""
        if self.parent:
            return f"from {tag_name(self.line, self.parent)}"
        if not self.adopted:
            return "from the base model"
        return f"adopted as it was{f'; {self.merged}' if self.merged else ''}"

    @property
    def sparse_in_words(self) -> str:
        """Sparsity, structure, and how much of the model that is about."""
        from sau.checkpoint.manifest import DENSE  # safetensors and more: not for a list of versions

        if self.structure == DENSE:
            return "dense, no mask yet"
        share = f" of {self.covered:.0%} of the model" if self.covered else ""
        return f"{self.sparsity:.2%}{share}, {self.structure}"

    def is_same_as(self, other: "VersionRecord") -> bool:
        """Whether both are of the same requests, parent and weights: one version, whoever registered it."""
        mine, others = ((r.request_ids, r.parent, r.weights_digest) for r in (self, other))
        return mine == others

    def judged_again(self, judged: Verdict) -> dict[str, str]:
        """The tags that a further verdict on these weights changes; those of before stay beside it."""
        others = [v for v in self.verdicts or (self.judged,) if v.judge != judged.judge]
        said = json.dumps([verdict.model_dump() for verdict in (*others, judged)])
        return {_VERDICTS: said} | judged.model_dump()

    def to_tags(self) -> dict[str, str]:
        """As MLflow's tags, strings by name; `parent` as `parent_version`."""
        values = self.model_dump(exclude=_NOT_TAGS)
        values["parent_version"] = values.pop("parent")
        return {key: _as_tag(value) for key, value in values.items()}

    @classmethod
    def from_registered(cls, registered: Registered) -> "VersionRecord":
        """Read from MLflow's entry.

        Raises:
            TrackingError: a tag is missing or malformed: the version is not one of this product's.
        """
        tags = dict(registered.tags)
        for name, before in _OF_BEFORE.items():
            tags.setdefault(name, tags.get(before, ""))
        where = tag_name(registered.line, registered.number)
        try:
            verdicts = _ALL.validate_json(tags.get(_VERDICTS) or "[]")
            tags |= verdicts[-1].model_dump() if verdicts else {}
            return cls(
                line=registered.line,
                number=registered.number,
                aliases=registered.aliases,
                run_id=registered.run_id,
                source=registered.source,
                request_ids=tuple(r for r in tags["request_ids"].split(",") if r),
                parent=int(tags["parent_version"]) if tags["parent_version"] else None,
                sparsity=float(tags["sparsity"]),
                covered=float(tags.get("covered") or 0),
                checkout_dirty=tags["checkout_dirty"] == "true",
                verdicts=verdicts,
                **{name: tags.get(name, "") for name in _TEXTS if name in _OPTIONAL},
                **{name: tags[name] for name in _TEXTS if name not in _OPTIONAL},
            )
        except KeyError as error:
            raise TrackingError(
                f"{where}: no version of this product (tag {error} is missing); is the name somebody else's?"
            ) from None
        except ValueError:
            raise TrackingError(f"{where}: its tags are malformed") from None


_ALL = TypeAdapter(tuple[Verdict, ...])
_TEXTS = [
    name for name, field in VersionRecord.model_fields.items() if field.annotation is str and name not in _NOT_TAGS
]
_OPTIONAL = {name for name, field in VersionRecord.model_fields.items() if field.default == ""}


def _as_tag(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.6f}"
        case tuple():
            return ",".join(value)
    return str(value)


def surroundings() -> dict[str, str]:
    """What bits may depend on besides the recipe: machine, and versions of Python and of the libraries that compute."""
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "python": platform.python_version(),
        **{name: installed(name) for name in _LIBRARIES},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def changed_surroundings(then: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """What is not as it was: name -> (then, now)."""
    now = surroundings()
    return {name: (then[name], now.get(name, "absent")) for name in then if then[name] != now.get(name)}
