"""Doctor: compare the stores of a line on demand, and mend what can be mended; and what a person decides of a line."""

import logging
from datetime import UTC, datetime

from flows.attempt import line_lock
from flows.retrain import reference_line
from sau.errors import RequestError, SauError
from tasks.engines.decisions import MAX_NAME, checked_text
from tasks.engines.ledger import Ledger
from tasks.engines.orchestration import flow, once_for_all_missed
from tasks.engines.settings import settings
from tasks.examine import examine
from tasks.from_git import take_from_git
from tasks.giving_up import Given, give_up
from tasks.installation import installation
from tasks.reconcile import Finding, reconcile
from tasks.requests import lapsed
from tasks.versions.record import VersionRecord
from tasks.versions.registry import Registry

log = logging.getLogger("sau")


def doctor(line: str, *, bytes_too: bool = True, refill: bool = False) -> list[Finding]:
    """What the stores of a line said differently, and what in them is damaged; it waits for an attempt under way.

    Args:
        bytes_too: look for damage as well, which reads every byte of the leading version.
        refill: send the DVC remote what it lacks.

    Raises:
        ConfigError: a malformed line.
    """
    findings: list[Finding] = []
    with line_lock(line, "doctor"):
        try:
            for finding in reconcile(line, reference_line(line)):
                findings.append(finding)  # one by one: what was found before an error stays
            if bytes_too and not any(finding.stops for finding in findings):
                findings.extend(examine(line, refill=refill))
        except SauError as error:
            findings.append(Finding(what=str(error), way_out="what comes after it was not looked at", stops=True))
    return findings


@flow(name="doctor", flow_run_name="doctor {line}", on_running=[once_for_all_missed])
def check_stores(line: str) -> list[Finding]:
    """The installation and `doctor` as a scheduled run, which fails where a person has to decide.

    Raises:
        RequestError: what it is about, and the ways out.
    """
    findings = [*installation(line), *doctor(line)]
    for finding in findings:
        log.info("%s", finding.words)
    if stops := [finding.words for finding in findings if finding.stops]:
        raise RequestError(f"{line}: a person has to decide: {'; '.join(stops)}")
    return findings


def set_champion(line: str, number: int, by: str) -> tuple[VersionRecord, list[str]]:
    """Make a version lead; returns it, and the requests that are in force no more.

    Args:
        by: who decided it; as in the others.

    Raises:
        RequestError: it may not lead.
    """
    ledger, by = Ledger(settings().ledger_url), checked_text("by", by, MAX_NAME)
    with line_lock(line, "set-champion"):
        record = Registry().lead(line, number, by=f"{by}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
        ledger.note_line(line, "champion set", by, version=number)
    return record, lapsed(line)


def adopt_version(line: str, number: int, by: str) -> VersionRecord:
    """Take a version that only git and DVC have into this registry; see `take_from_git`."""
    with line_lock(line, "adopt-version"):
        return take_from_git(line, number, checked_text("by", by, MAX_NAME))


def forget_line(line: str, by: str) -> Given:
    """Give a line up; see `give_up`."""
    with line_lock(line, "forget-line"):
        return give_up(line, reference_line(line), checked_text("by", by, MAX_NAME))
