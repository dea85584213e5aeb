"""A request that two processes unlearn and judge: whichever of them is killed, all end, and the request is open."""

import json
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest
import yaml

from tests.small_line import PERSON, options

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
TWO = ("--set", "unlearn.processes=2", "--set", "unlearn.max_steps=120", "--set", "verify.processes=2")
UNLEARN, VERIFY = ("stage", "unlearn"), ("tasks.engines.several",)
SOON_S = 60


def forgetting(checkout, log):
    """The forget flow, in a process of its own."""
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "sau", "forget", *TWO, "--json"],
            cwd=checkout.path, env=checkout.env(), stdout=subprocess.DEVNULL, stderr=file, start_new_session=True,
        )  # fmt: skip


def below(flow, *words):
    """The processes below a flow whose command line has these words, and the pair that torchrun started."""
    found = []
    for process in psutil.Process(flow.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if set(words) <= set(process.cmdline()):
                found.append(process)
    starters = [p for p in found if any("torch" in word and word.endswith("run") for word in p.cmdline())]
    return [process for process in found if process not in starters], starters


def pair_at_work(flow, *words):
    """The two processes as soon as they have joined, and what started them."""
    deadline = time.monotonic() + 600
    while True:
        assert flow.poll() is None, "the flow has ended"
        pair, starters = below(flow, *words)
        with suppress(psutil.NoSuchProcess):
            pair = [process for process in pair if "python" in process.name() and process.net_connections("tcp")]
            if len(pair) == 2 and starters:
                return pair, starters[-1]
        assert time.monotonic() < deadline, "no two processes are at it"
        time.sleep(0.2)


def requests(checkout):
    return [(row["state"], row["version"]) for row in json.loads(checkout.sau("request", "list", "--json").stdout)]


def test_whoever_of_two_is_killed_all_end_and_the_request_is_carried_out_later(copy_checkout, tmp_path):
    checkout = copy_checkout(tmp_path / "checkout")
    checkout.sau("bootstrap", *options(tmp_path), "--set", "prune.processes=2")
    first = yaml.safe_load(checkout.git("show", "tiny@v1:dvc.yaml"))["stages"]
    assert first["prune"]["cmd"] == "torchrun --standalone --nproc-per-node 2 -m sau stage prune"
    assert first["train"]["cmd"] == "python -m sau stage train"
    checkout.sau("request", "submit", "--subject", PERSON)
    for number, (words, whom) in enumerate(((UNLEARN, "one"), (UNLEARN, "what started them"), (VERIFY, "one"))):
        flow = forgetting(checkout, tmp_path / f"{number}.log")
        pair, starter = pair_at_work(flow, *words)
        (pair[1] if whom == "one" else starter).kill()
        _, left = psutil.wait_procs([*pair, starter], timeout=SOON_S)
        assert not left, whom
        assert flow.wait(SOON_S) == 1
        failed = "dvc repro" if words == UNLEARN else "verify: one of its 2 processes has ended"
        assert f"WorkspaceError: {failed}" in (tmp_path / f"{number}.log").read_text()
        assert requests(checkout) == [("open", None)]
    done = json.loads(checkout.sau("forget", *TWO, "--json", check=False).stdout)  # whatever the verdict on it is
    assert done["tag"] == "tiny@v2"
    assert requests(checkout)[0][0] in ("forgotten", "review")
    recipe = yaml.safe_load(checkout.git("show", "tiny@v2:dvc.yaml"))["stages"]["unlearn"]["cmd"]
    assert recipe == "torchrun --standalone --nproc-per-node 2 -m sau stage unlearn"
    masks = [json.loads(checkout.git("show", f"tiny@v{n}:metrics/package.json"))["mask_digest"] for n in (1, 2)]
    assert masks[0] == masks[1]
    assert json.loads(checkout.sau("reproduce", "tiny@v1", "--rerun", "--json").stdout)["equal"] is True
    assert json.loads(checkout.sau("reproduce", "tiny@v2", "--rerun", "--json").stdout)["equal"] is True
