"""Doctor: compare the stores of a line on demand, and mend what can be mended."""

from flows.attempt import line_lock
from flows.retrain import reference_line
from sau.errors import SauError
from tasks.reconcile import Finding, reconcile


def doctor(line: str) -> list[Finding]:
    """What the stores of a line said differently; it waits for an attempt that is under way.

    Raises:
        ConfigError: a malformed line.
    """
    findings: list[Finding] = []
    with line_lock(line):
        try:
            for finding in reconcile(line, reference_line(line)):
                findings.append(finding)  # one by one: what was found before an error stays
        except SauError as error:
            findings.append(Finding(what=str(error), way_out="what comes after it was not looked at", stops=True))
    return findings
