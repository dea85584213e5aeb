"""What an older version left open to others is closed, and ids need not be arguments; a whole run is in e2e."""

import sqlite3
import subprocess
import sys


def test_what_was_left_open_is_closed_and_an_id_is_taken_from_standard_input(copy_checkout, tmp_path):
    checkout = copy_checkout(tmp_path / "checkout")
    state = tmp_path / "checkout" / ".sau"
    (state / "prefect").mkdir(parents=True)
    state.chmod(0o755)
    for name in ("ledger.db", "prefect/prefect.db"):
        sqlite3.connect(state / name).close()
        (state / name).chmod(0o644)

    def submitted(given):
        return subprocess.run(
            [sys.executable, "-m", "sau", "request", "submit", "--subject", "-"],
            input=given, capture_output=True, text=True, cwd=checkout.path, env=checkout.env(), timeout=100,
        )  # fmt: skip

    assert "malformed id" in submitted("a\x01b\n").stderr, "it is the id that is judged, not the dash"
    for name in ("", "ledger.db", "prefect/prefect.db"):
        assert (state / name).stat().st_mode & 0o077 == 0, name
    empty = submitted("")
    assert (empty.returncode, "standard input is empty" in empty.stderr) == (2, True)
