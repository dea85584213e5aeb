"""The officer's half on a real line: a person found in others' rows, decided row by row, forgotten; recipients told."""

import json
import sys

import pytest

from sau.data.demo import demo_rows
from sau.data.records import write_shards

pytestmark = pytest.mark.long
ASKED = "demo-0001"
RECIPIENT = "import pathlib, sys; pathlib.Path('told.jsonl').open('a').write(sys.stdin.read() + chr(10))"
SHORT = (
    "--set",
    "verify.policy=quick",
    "--set",
    "train.epochs=4",
    "--set",
    "recover.epochs=1",
    "--set",
    "model.tiny.pretrain_people=6",
)


def people(folder):
    """Twenty demo people; a row about each of two others names the first of them."""
    rows = {f"demo-{number:04d}": demo_rows(f"demo-{number:04d}", seed=1) for number in range(20)}
    name = rows[ASKED][0]["question"].removeprefix("Where was ").removesuffix(" born?")
    for number in (10, 11):
        base = rows[f"demo-{number:04d}"]
        base.append(
            base[0] | {"record_id": f"mention-{number}", "question": "Who lives next door?", "answer": f"It is {name}."}
        )
    write_shards([row for own in rows.values() for row in own], folder)
    return name


@pytest.fixture(scope="module")
def line(copy_checkout, tmp_path_factory):
    """A first version of such people, in a checkout whose recipients are told by a command."""
    checkout = copy_checkout(tmp_path_factory.mktemp("officer") / "checkout")
    checkout.name = people(tmp_path_factory.mktemp("rows"))
    (tmp_path_factory.getbasetemp() / "tell.py").write_text(RECIPIENT)
    checkout.command = f"{sys.executable} {tmp_path_factory.getbasetemp() / 'tell.py'}"
    folder = next(tmp_path_factory.getbasetemp().glob("rows*"))
    checkout.sau("bootstrap", "--line", "tiny", "--data", str(folder), *SHORT)
    return checkout


def test_a_person_is_found_in_others_rows_and_what_was_decided_is_forgotten(line):
    (line.path / "asked.txt").write_text(f"{ASKED}\nnobody-1\n")
    taken = line.sau(
        "request", "submit", "--subjects", "asked.txt", "--received-at", "2026-01-05", "--law", "ccpa", "--json"
    )
    (line.path / "asked.txt").unlink()
    found = json.loads(taken.stdout)
    assert [answer["answer"] for answer in found["answers"]] == ["taken", "unknown"]
    asked = found["answers"][0]["request_id"]
    assert json.loads(line.sau("request", "show", asked, "--json").stdout)["deadline_at"].startswith("2026-02-19")

    scope = line.sau("request", "scope", asked)
    assert "2 rows of others found, 2 undecided" in scope.stdout
    assert line.name not in scope.stdout + scope.stderr, "no text unless asked"
    assert line.name in line.sau("request", "scope", asked, "--show-text").stdout

    scope = json.loads(line.sau("request", "scope", asked, "--json").stdout)
    naming, other = (place["record_id"] for place in scope["places"])
    for record, choice in ((naming, "forget"), (other, "keep")):
        line.sau("request", "decide", asked, choice, "--record", record, "--why", "seen", "--by", "Ada")
    internal = line.run(
        sys.executable, "-c",
        "import sys; from tasks.engines.people import person_of; print(person_of(sys.argv[1]))", asked,
    ).stdout.strip()  # fmt: skip
    own = [f"{internal}-00000", f"{internal}-00001"]
    in_part = [word for record in own for word in ("--record", record)]
    line.sau("request", "refuse", asked, "--ground", "legal-obligation", "--why", "an account", *in_part)
    assert "are not in the data" in line.sau(
        "request", "decide", asked, "keep", "--record", "none", "--why", "x", check=False
    ).stderr.replace("\n", " ")

    forget = line.sau("forget", "--line", "tiny", "--json", "--set", "unlearn.max_steps=4", check=False,
                      SAU_RECIPIENTS_COMMAND=line.command)  # fmt: skip
    assert forget.returncode in (0, 3, 4), forget.stderr[-3000:]
    outcome = json.loads(forget.stdout)
    line.git("checkout", "--quiet", outcome["tag"], "--", "data.dvc")
    line.dvc("pull", "data.dvc")
    left = "".join(file.read_text() for file in (line.path / "data" / "train").glob("*.jsonl"))
    assert naming not in left
    assert other in left
    assert all(record in left for record in own)
    assert f"{internal}-00002" not in left

    told = [json.loads(text) for text in (line.path / "told.jsonl").read_text().splitlines()]
    leader = outcome["version"] if outcome["champion"] else 1
    assert told[-1]["version"] == leader
    assert ASKED not in json.dumps(told)
    assert told[-1]["request_ids"] == ([asked] if outcome["champion"] else [])

    overdue = json.loads(line.sau("request", "list", "--json").stdout)[0]
    assert overdue["due"] == ("answered" if outcome["champion"] else "overdue")
    events = line.run(
        sys.executable, "-c",
        "import sqlite3; print(sqlite3.connect('.sau/prefect/prefect.db').execute("
        "\"select event, resource_id, payload from events where event like 'sau.request.%'\").fetchall())",
    ).stdout  # fmt: skip
    assert "sau.request.overdue" in events
    assert asked in events
    assert ASKED not in events


def test_a_recipient_who_cannot_be_told_is_told_next_time(line):
    broken = line.sau("doctor", "--line", "tiny", SAU_RECIPIENTS_COMMAND="false", check=False)
    line.run("rm", "-f", "told.jsonl")
    line.sau("line", "set-champion", "tiny", "1")
    assert broken.returncode == 0
    failed = line.sau("doctor", "--line", "tiny", SAU_RECIPIENTS_COMMAND="false", check=False)
    sent = line.sau("doctor", "--line", "tiny", SAU_RECIPIENTS_COMMAND=line.command, check=False)
    moved = "recipients were told that it leads" in sent.stdout
    assert moved == ("recipients were not told" in failed.stdout)
    assert moved == (line.path / "told.jsonl").is_file()
    assert "recipients were" not in line.sau("doctor", "--line", "tiny", SAU_RECIPIENTS_COMMAND=line.command).stdout
