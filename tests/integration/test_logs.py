"""Logs as JSON lines: request ids, line, flow run and step; nobody's name, no text; and a setting with two values."""

import io
import json
import logging
import sys

import pytest

from sau.logs import JsonLines, about
from tests.small_line import PERSON, options


@pytest.fixture
def said():
    """What a logger of its own wrote, line by line."""
    stream = io.StringIO()
    logger, handler = logging.getLogger("sau.test-of-logs"), logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    yield logger, lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logger.removeHandler(handler)


def test_a_line_has_what_it_is_about_and_of_an_error_its_kind_alone(said):
    logger, lines = said
    with about(line="tiny"), about(requests=("r-1",)):
        try:
            raise ValueError("Anna Canary lives in\nTown")
        except ValueError:
            logger.exception("a step\nfailed")
    logger.info("%d left", 3)
    first, second = lines()
    assert {key: first[key] for key in ("level", "message", "line", "requests", "error")} == {
        "level": "ERROR", "message": "a step\nfailed", "line": "tiny", "requests": ["r-1"], "error": "ValueError",
    }  # fmt: skip
    assert "Canary" not in json.dumps(first)
    assert (second["message"], second.get("line")) == ("3 left", None)


def test_an_error_of_a_command_is_a_line_of_json_and_a_wrong_setting_a_plain_one(copy_checkout, tmp_path):
    checkout = copy_checkout(tmp_path / "checkout")
    done = checkout.sau("request", "show", "r-0123456789abcdef", check=False, SAU_LOG_FORMAT="json")
    (line,) = done.stderr.splitlines()
    assert json.loads(line).items() >= {"level": "ERROR", "error": "RequestError"}.items()
    done = checkout.sau("request", "list", check=False, SAU_LOG_FORMAT="xml")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "SAU_LOG_FORMAT" in done.stderr


@pytest.mark.long
def test_whole_runs_log_lines_of_json_that_name_nobody(copy_checkout, tmp_path):
    checkout = copy_checkout(tmp_path / "checkout")
    checkout.sau("bootstrap", *options(tmp_path))
    name = "from sau.data.demo import demo_rows; import json; print(json.dumps(demo_rows('demo-0002', seed=1)))"
    rows = json.loads(checkout.run(sys.executable, "-c", name).stdout)
    request = json.loads(checkout.sau("request", "submit", "--subject", PERSON, "--json").stdout)
    done = checkout.sau("forget", "--json", check=False, SAU_LOG_FORMAT="json")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert all(line.keys() >= {"time", "level", "message", "line"} for line in lines), lines
    of_steps = [line for line in lines if "step" in line]
    assert {"snapshot", "unlearn", "package"} <= {line["step"] for line in of_steps}
    assert {tuple(line["requests"]) for line in of_steps if line["step"] == "unlearn"} == {(request["id"],)}
    assert len({line["flow_run"] for line in of_steps}) == 1
    purged = checkout.sau("purge", request["id"], "--yes", check=False, SAU_LOG_FORMAT="json").stderr
    secrets = {PERSON, *(row["answer"] for row in rows), *(row["question"] for row in rows)}
    assert len(secrets) > 10
    assert not [secret for secret in secrets if secret in done.stderr + purged]
    if json.loads(done.stdout)["verdict"] == "PASS":
        assert any(line.get("requests") == [request["id"]] for line in map(json.loads, purged.splitlines()))
