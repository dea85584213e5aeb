"""Doctor: compare the stores of a line on demand, and mend what can be mended."""

from flows.attempt import line_lock
from flows.retrain import reference_line
from sau.errors import SauError
from tasks.examine import examine
from tasks.reconcile import Finding, reconcile


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
