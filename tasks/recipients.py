"""Recipients of a model are told when another version leads (GDPR Art. 19): by a command, with JSON on its input."""

import json
import logging
import shlex
import subprocess

from tasks.engines.ledger import Ledger
from tasks.engines.settings import settings
from tasks.versions.lineage import carried_out
from tasks.versions.registry import Registry

log = logging.getLogger("sau")

TIMEOUT_S = 60.0


def tell_recipients(line: str) -> str | None:
    """Run the settings' command if another version leads than recipients were told of last; the line's lock is held.

    Its input is {line, version, tag, previous, weights_digest, request_ids}: ids and digests, nobody's name. One that
    fails is run again next time, so a recipient may be told twice and is told at least once.

    Returns:
        What happened, in words; None where there was nothing to tell.

    Raises:
        TrackingError: MLflow cannot be asked.
    """
    command = settings().recipients_command
    if not command or (leader := Registry().find(line)) is None:
        return None
    ledger = Ledger(settings().ledger_url)
    if (previous := ledger.last_notice(line)) == leader.number:
        return None
    notice = {
        "line": line,
        "version": leader.number,
        "tag": leader.tag,
        "previous": previous,
        "weights_digest": leader.weights_digest,
        "request_ids": sorted(carried_out(line)),
    }
    try:
        done = subprocess.run(
            shlex.split(command), input=json.dumps(notice), text=True, capture_output=True, timeout=TIMEOUT_S
        )
        failed = f"exit {done.returncode}" if done.returncode else ""
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        failed = type(error).__name__
    if failed:
        log.warning("recipients of %s were not told of %s: the command failed (%s)", line, leader.tag, failed)
        return f"{leader.tag}: recipients were not told, the command of SAU_RECIPIENTS_COMMAND failed ({failed})"
    ledger.noticed(line, leader.number)
    log.info("recipients of %s were told of %s", line, leader.tag)
    return f"{leader.tag}: recipients were told that it leads"
