"""The versions of model lines, as records: found, added, promoted."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sau.errors import RequestError
from tasks.engines.registered import CHAMPION, Reader, Tables
from tasks.engines.repository import tag_name
from tasks.versions.expiry import expired
from tasks.versions.record import UNJUDGED, VersionRecord

if TYPE_CHECKING:
    from tasks.engines.tracking import Tracking

_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"  # no + in it, which MLflow does not take
_LED = "led."
"""Tags of the registered model, one for each move: when, which version, by whom."""


class Versions:
    """What the registry has, read in the least time that its store allows; see `Tables`.

    Raises:
        TrackingError: the store refuses, or a version of that name is not this product's; every method may.
    """

    def __init__(self, reader: Reader | None = None) -> None:
        self._reader = reader or Tables()

    def find(self, line: str, number: int | None = None) -> VersionRecord | None:
        """A version by number, else the champion; None where there is none."""
        found = self._reader.registered(line, number, alias=CHAMPION)
        return VersionRecord.from_registered(found) if found else None

    def get(self, line: str, number: int) -> VersionRecord:
        """A version by number.

        Raises:
            RequestError: there is none.
        """
        if (record := self.find(line, number)) is None:
            raise RequestError(f"version {tag_name(line, number)}: not in this MLflow store")
        return record

    def champion(self, line: str) -> VersionRecord:
        """The version that leads.

        Raises:
            RequestError: none does.
        """
        if (record := self.find(line)) is None:
            way_out = f"run `sau doctor --line {line}`" if self.all(line) else "run `sau bootstrap` first"
            raise RequestError(f"line {line}: no champion version, {way_out}")
        return record

    def all(self, line: str) -> list[VersionRecord]:
        """Every version of a line, oldest first."""
        return [VersionRecord.from_registered(entry) for entry in self._reader.all_registered(line)]

    def moves(self, line: str) -> list[tuple[str, int, str]]:
        """(when, version, by whom) of every move of the alias champion that was noticed, oldest first."""
        tags = self._reader.line_tags(line)
        found = sorted((key.removeprefix(_LED), value) for key, value in tags.items() if key.startswith(_LED))
        split = [(at, value.partition("|")) for at, value in found]
        return [(at, int(number), by) for at, (number, _, by) in split]


class Registry(Versions):
    """The registry behind `tracking`, which is asked anew each time, and written.

    Raises:
        TrackingError: as of `Versions`.
    """

    def __init__(self, tracking: "Tracking | None" = None) -> None:
        from tasks.engines.tracking import Tracking  # MLflow: not where only the name of this class is needed

        self.tracking = tracking or Tracking()
        super().__init__(self.tracking)

    def with_weights(self, line: str, weights_digest: str) -> list[VersionRecord]:
        """The versions of a line that have these weights, without their aliases."""
        return [VersionRecord.from_registered(entry) for entry in self.tracking.with_weights(line, weights_digest)]

    def add(
        self, record: VersionRecord, checkpoint: Path, *, run_id: str, description: str, number: int | None = None
    ) -> VersionRecord:
        """Register a version; the parent's model becomes an input of the run.

        A version that an earlier attempt registered is taken up: the verdict that is given now counts from now on, and
        stands beside those of other policies and nulls.

        Args:
            number: of one that had a number before; see `Tracking.register`.
        """
        for found in self.with_weights(record.line, record.weights_digest):
            if found.is_same_as(record):
                judged = record.judged.model_copy(update={"verdict_run": run_id if run_id != found.run_id else ""})
                self.tracking.tag_version(record.line, found.number, found.judged_again(judged))
                return self.get(record.line, found.number)
        parent = self.get(record.line, record.parent) if record.parent else None
        entry = self.tracking.register(
            record.line,
            checkpoint,
            run_id=run_id,
            tags=record.to_tags(),
            parent_source=parent.source if parent else None,
            description=description,
            number=number,
        )
        return VersionRecord.from_registered(entry)

    def lead(self, line: str, number: int, *, by: str = "") -> VersionRecord:
        """Make a version the line's champion.

        Args:
            by: who decided it, where that was a person; kept as a tag of the version. A person may also say it of one
                that was taken from git without evidence.

        Raises:
            RequestError: there is none, its verdict does not allow it, or a purge has removed its bytes.
        """
        record = self.get(line, number)
        if not record.may_lead and not (by and record.verdict == UNJUDGED):
            raise RequestError(f"{record.tag}: its verdict is {record.verdict}, only a version that passed may lead")
        if gone := expired(self.tracking.settings.root, record.tag):
            raise RequestError(gone.words)
        if by:
            self.tracking.tag_version(line, number, {"made_champion_by": by})
        self.note_move(line, number, by=by or "the flow, on its verdict")  # first: who dies between writes it once more
        self.tracking.set_alias(line, CHAMPION, number)
        return self.get(line, number)

    def note_move(self, line: str, number: int, *, by: str) -> None:
        """Write into the line's history that a version leads from now on; one that led already is not written twice."""
        moves = self.moves(line)
        if not moves or moves[-1][1] != number:
            self.tracking.tag_line(line, f"{_LED}{datetime.now(UTC):{_TIME}}", f"{number}|{by}")

    def download(self, record: VersionRecord) -> Path:
        """A version's stored checkpoint on this machine (the store's own folder where it is local).

        Raises:
            RequestError: a purge has removed it.
        """
        if gone := expired(self.tracking.settings.root, record.tag):
            raise RequestError(gone.words)
        return self.tracking.download(record.source, record.tag)

    def put_back(self, record: VersionRecord, checkpoint: Path) -> None:
        """Store a version's checkpoint once more, over what is stored of it."""
        self.tracking.store(record.source, checkpoint, record.tag)
