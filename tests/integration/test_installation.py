"""What `sau doctor` says of an installation: clashing versions, open keys, a wrong clock, a full disk, no server."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks import installation as module
from tasks.engines.keys import vault
from tasks.engines.settings import settings
from tasks.installation import installation
from tests.apart import own_settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with this project's pyproject.toml that the settings take for the checkout."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    (tmp_path / "root").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "root")
    with own_settings(SAU_HOME=str(tmp_path / "home"), SAU_ROOT=str(tmp_path / "root")):
        yield tmp_path / "root"


def words():
    return [finding.words for finding in installation("tiny")]


def test_an_installation_that_is_as_it_has_to_be(root):
    assert words() == []


def test_a_version_out_of_bounds_and_a_package_that_is_missing_stop(root):
    file = root / "pyproject.toml"
    text = (
        file.read_text().replace('"fastapi>=0.139,<0.151"', '"fastapi>=0.1,<0.2"').replace('"alembic>=1.16"', '"a-l"')
    )
    file.write_text(text)
    found = list(installation("tiny"))
    assert [finding.stops for finding in found] == [True, True]
    assert found[0].what.startswith("fastapi 0.")
    assert found[0].words.endswith("is installed, and <0.2,>=0.1 is needed; `pip install 'fastapi>=0.1,<0.2'`")
    assert found[1].words == "a-l is missing; `pip install 'a-l'`"


def test_a_key_that_others_may_read(root):
    vault()
    settings().state.joinpath("keys").mkdir(exist_ok=True)
    key = settings().state / "keys" / "other.pem"
    key.write_text("")
    key.chmod(0o640)
    assert words() == [f"{key}: others may read it; `chmod go= {key}`"]


def test_a_clock_that_is_wrong(root, monkeypatch):
    monkeypatch.setattr(module, "now", lambda session: datetime.now(UTC) + timedelta(minutes=5))
    (said,) = words()
    assert said.startswith(
        "the clock of this machine and that of the ledger's database are 300 s apart; set both by NTP"
    )


def test_a_disk_that_is_full(root, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**9, 10**9 - 5, 5))
    (finding,) = installation("tiny")
    assert (finding.stops, "has 5 bytes left, at least 1,073,741,824 are needed" in finding.what) == (False, True)


def test_a_prefect_server_that_does_not_answer_is_named(root, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    (finding,) = installation("tiny")
    assert finding.words == "schedule: no answer from a Prefect server; see SAU_PREFECT_API_URL"
    assert not finding.stops
