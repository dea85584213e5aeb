"""Every command with every failing engine: one line, a documented exit code, no traceback, no name, soon enough."""

import json
import re
import sys

import pytest

import flows.cli  # noqa: F401  # adds the commands of a checkout
from sau.cli import app
from tests.integration.every_command import CALLS, commands_of
from tests.integration.failing_engines import LIGHT, LIGHT_ENGINES, PERSON

EXIT_CODES = {0, 1, 2, 3, 4, 5}
PROGRESS = re.compile(r"\d\d:\d\d:\d\d ")
ERROR = re.compile(r"[A-Z]\w*: \S")
SECONDS = 60
"""How long a command may take to fail: it is given 3 s for a silent server, and may ask twice."""


def driven(copy_checkout, folder, *arguments):
    checkout = copy_checkout(folder / "checkout")
    done = checkout.run(sys.executable, "tests/integration/failing_engines.py", *arguments)
    return json.loads(done.stdout)


def faults(command, said):
    """What is wrong with how a command ended."""
    lines = [line for line in said["err"].splitlines() if line.strip() and not PROGRESS.match(line)]
    if said["code"] not in EXIT_CODES:
        yield f"exit code {said['code']}"
    if said["fails"] and said["code"] != 1:
        yield f"exit code {said['code']}, where it cannot have worked"
    if said["unnamed"]:
        yield "what fails is not named"
    if "Traceback" in said["err"] + said["out"]:
        yield "a traceback"
    if PERSON in said["err"] or "secret" in said["err"]:
        yield "names somebody, or a password"
    if said["bad_logs"]:
        yield "a log that is named and not there, or that others can read"
    if said["seconds"] > SECONDS:
        yield f"took {said['seconds']:.0f} s"
    says_findings = command == "doctor" and "\nstops " in f"\n{said['out']}"
    if said["code"] == 1 and not says_findings and (len(lines) != 1 or not ERROR.match(lines[0])):
        yield f"{len(lines)} lines, or none of an error"


def all_faults(found):
    return [
        f"{engine} / {command}: {fault}: {said['err'].strip()[-500:]!r}"
        for engine, commands in found.items()
        if "skipped" not in commands
        for command, said in commands.items()
        for fault in faults(command, said)
    ]


def test_every_command_has_a_call():
    assert commands_of(app) == CALLS.keys()


def test_light_commands_with_failing_stores_end_in_one_line(copy_checkout, tmp_path):
    found = driven(copy_checkout, tmp_path, "light")
    assert list(found) == LIGHT_ENGINES
    assert all(commands.keys() == set(LIGHT) for commands in found.values())
    assert all_faults(found) == []


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_every_command_with_every_failing_engine_ends_in_one_line(copy_checkout, tmp_path):
    """Two ways of failing of every store that a command needs; all ways with all commands are driven by hand."""
    found = driven(copy_checkout, tmp_path, "some")
    skipped = {engine for engine, commands in found.items() if "skipped" in commands}
    assert skipped <= {"git somebody else's", "home full", "home read-only"}
    stores = {store for call in CALLS.values() for store in call.stores}
    for store in stores:
        of_store = [found[engine] for engine in found.keys() - skipped if engine.split()[0] == store]
        failed = {name for commands in of_store for name, said in commands.items() if said["fails"]}
        assert failed == {name for name, call in CALLS.items() if store in call.stores}, store
    assert not (found_faults := all_faults(found)), "\n".join(found_faults)
