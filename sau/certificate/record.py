"""The evidence record of one request: what was asked, done, found and cleaned, as an in-toto statement.

An in-toto Statement v1 whose subjects are the shipped files and whose predicate is `Evidence`. Its JSON Schema is
`evidence.schema.json` beside this file. Nothing in it quotes a row or names a person, and no digest in it is of forget
text alone: what commits to the rows is keyed, so that it says nothing once the key is gone.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

PREDICATE = "urn:sparsity-aware-unlearning:evidence:v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Md5 = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{32}(\.dir)?)?$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}$")]
"""Of a request, a line or a version: it stands in letters, and in commands to be copied."""
Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE", "REFUSED"]
KeyState = Literal["none", "held", "shredded"]
Number = float | None


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Asked(_Part):
    """The request.

    Attributes:
        id: random.
        ground: after GDPR Art. 17(1).
        num_records: the person's rows.
        num_requests: how many were carried out together with it, itself included.
        commitment: HMAC-SHA256 of the rows under the request's own key; "" where no key was made.
        key: what became of that key.
    """

    id: Name
    line: Name
    ground: str
    received_at: datetime
    deadline_at: datetime
    num_records: int
    num_requests: int
    commitment: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    key: KeyState = "none"


class Decision(_Part):
    """What was decided: the version made for the request, and whether it leads its line."""

    version: Name
    leads: bool
    at: datetime


class Inputs(_Part):
    """What it was made from. Digests are SHA-256, those of DVC md5; never one of the forgotten rows alone."""

    parent: str
    parent_weights: str
    mask: str
    sparsity: float
    structure: str
    data: Md5
    base: Md5
    params: str
    git_commit: str
    code_commit: str
    checkout_dirty: bool


class StageRun(_Part):
    """A step of the recipe: its command, and the md5 of everything it wrote that can be made again and compared."""

    name: str
    command: str
    outs: dict[str, Md5]


class Procedure(_Part):
    """How it was made.

    Attributes:
        settings: parameters by dotted name, each as text.
        surroundings: machine and versions of the libraries that compute.
        num_rows: rows of each set, which an auditor may ask to see; see `sau.certificate.challenge`.
        seconds: of the whole run; 0 where it is not known.
    """

    method: str
    redistribution: str
    seed: int
    num_steps: int
    stopped: str
    device: str
    seconds: float
    settings: dict[str, str]
    surroundings: dict[str, str]
    stages: list[StageRun]
    num_rows: dict[str, int]


class Check(_Part):
    """One check of the battery on the shipped weights; the controls stand beside the number."""

    id: str
    version: int
    applied_to: Sha256
    mandatory: bool
    n: int
    statistic: Number
    interval: tuple[float, float] | None
    margin: tuple[Number, Number] | None
    before: Number
    reference: Number
    people_who_stay: Number
    strangers: Number
    p: Number
    power: Number
    verdict: str
    reason: str


class Policy(_Part):
    """By what it was judged, and against what."""

    name: str
    version: int
    digest: str
    judged_against: str


class Cleaned(_Part):
    """What a purge did in one store, and what is left there."""

    store: str
    action: str
    at: datetime
    verified_by: str
    residual: str


class Evidence(_Part):
    """The predicate.

    Attributes:
        sequence, previous: its place in the log, from 1, and the digest of the record before; "" for the first.
        verdict: on the person who asked; `batch_verdict` on all who asked together.
        utility: model (before, unlearned, reference) -> set/metric -> value.
        purge: store by store; empty until there was one, and then a further record of the same request says it.
        not_covered, limits: what the record does not say.
        signer: key id of the public key.
    """

    schema_version: Literal[1] = 1
    sequence: int = Field(ge=1)
    previous: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    request: Asked
    decision: Decision
    inputs: Inputs
    procedure: Procedure
    policy: Policy
    checks: list[Check]
    stressors: list[str]
    utility: dict[str, dict[str, Number]]
    verdict: Verdict
    batch_verdict: Verdict
    reasons: list[str]
    purge: list[Cleaned] = []
    not_covered: list[str]
    limits: list[str]
    issued_at: datetime
    signer: str


class Digest(_Part):
    sha256: Sha256


class Subject(_Part):
    """A file by name and digest."""

    name: str
    digest: Digest


class Statement(_Part):
    """An in-toto Statement v1 about the files of a version."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field("https://in-toto.io/Statement/v1", alias="_type")
    subject: list[Subject] = Field(min_length=1)
    predicate_type: Literal["urn:sparsity-aware-unlearning:evidence:v1"] = Field(
        "urn:sparsity-aware-unlearning:evidence:v1", alias="predicateType"
    )
    predicate: Evidence

    def to_json(self) -> dict[str, Any]:
        """As the payload of an envelope has it."""
        return self.model_dump(mode="json", by_alias=True)


class Head(_Part):
    """The head of a log of records: how many there are, and the digest of the last. Signed, it shows a cut tail."""

    type_: Literal["urn:sparsity-aware-unlearning:head:v1"] = Field(
        "urn:sparsity-aware-unlearning:head:v1", alias="_type"
    )
    size: int = Field(ge=1)
    last: Sha256
    at: datetime

    def to_json(self) -> dict[str, Any]:
        """As the payload of an envelope has it."""
        return self.model_dump(mode="json", by_alias=True)


def schema() -> dict[str, Any]:
    """The JSON Schema of a statement, as `evidence.schema.json` publishes it."""
    made = Statement.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": PREDICATE, **made}
