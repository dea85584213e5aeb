"""The vault: rows come back with their key and with nothing else, and never after it was shredded."""

import base64
import json
import secrets
import sys

import pytest

from sau.data.demo import demo_rows
from sau.data.vault import Vault, forget_rows, reading_with
from sau.data.wrapping import GivenKeys, rotate, vault_of
from sau.errors import VaultError

ONE, TWO = "r-0000000000000001", "r-0000000000000002"
ROWS = demo_rows("demo-0002", seed=1)


def by_id(row):
    return row["record_id"]


@pytest.fixture
def vault(tmp_path):
    return vault_of(tmp_path, {})


def test_rows_come_back_and_nothing_of_them_lies_on_the_disk(vault, tmp_path):
    file = vault.seal(ONE, ROWS)
    assert sorted(vault.open(ONE), key=by_id) == sorted(ROWS, key=by_id)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for row in ROWS:
        assert row["answer"].encode() not in written
        assert row["subject_id"].encode() not in written
    assert file.stat().st_mode & 0o777 == 0o600
    assert vault.folder.stat().st_mode & 0o777 == 0o700
    assert (vault.state(ONE), vault.state(TWO), vault.requests()) == ("held", "none", [ONE])


def test_the_same_rows_are_the_same_file_and_others_are_not(vault):
    before = vault.seal(ONE, ROWS).read_bytes()
    assert vault.seal(ONE, reversed(ROWS)).read_bytes() == before
    after = vault.seal(ONE, ROWS[:-1]).read_bytes()
    assert after != before
    assert len(vault.open(ONE)) == len(ROWS) - 1
    vault.seal(TWO, odd := [ROWS[0] | {"answer": "a\u2028b\x85c\n\ud800"}])
    assert vault.open(TWO) == odd, "what ends a line elsewhere ends none here"
    assert len(vault.open(ONE, before)) == len(ROWS), "what a version pinned is still opened by the request's key"


def test_a_change_of_any_byte_or_another_requests_name_is_seen(vault):
    sealed = vault.seal(ONE, ROWS[:1]).read_bytes()
    vault.seal(TWO, ROWS[1:2])
    for place in range(0, len(sealed), 7):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(VaultError):
            vault.open(ONE, bytes(changed))
    with pytest.raises(VaultError, match="another request"):
        vault.open(TWO, sealed)
    (vault.folder / f"{TWO}.key").write_bytes((vault.folder / f"{ONE}.key").read_bytes())
    with pytest.raises(VaultError, match="another request"):
        vault.open(TWO)
    for cut in (b"", sealed[:5], sealed[:-1]):
        with pytest.raises(VaultError):
            vault.open(ONE, cut)


def test_what_was_shredded_stays_shredded_in_every_copy(vault):
    copy = vault.seal(ONE, ROWS).read_bytes()
    vault.shred(ONE)
    vault.shred(ONE)
    assert vault.state(ONE) == "shredded"
    for read in (lambda: vault.open(ONE, copy), lambda: vault.commitment(ONE), lambda: vault.seal(ONE, ROWS)):
        with pytest.raises(VaultError, match="shredded"):
            read()
    assert sorted(path.name for path in vault.folder.iterdir()) == [f"{ONE}.shredded"]


def test_a_shredding_that_died_on_the_way_is_finished(vault):
    vault.seal(ONE, ROWS)
    (vault.folder / f"{ONE}.shredded").write_bytes(b"")  # died right after the first of three
    with pytest.raises(VaultError, match="put in for it again"):
        vault.seal(ONE, ROWS)
    vault.shred(ONE)
    assert vault.state(ONE) == "shredded"


def test_a_commitment_binds_to_the_rows_and_differs_between_requests(vault):
    for request in (ONE, TWO):
        vault.seal(request, ROWS)
    assert vault.commitment(ONE) == vault.commitment(ONE)
    assert vault.commitment(ONE) != vault.commitment(TWO), "of the same rows: nothing can be told from it"
    before = vault.commitment(ONE)
    vault.seal(ONE, ROWS[:-1])
    assert vault.commitment(ONE) != before


def test_rotation_wraps_anew_and_old_keys_open_nothing(vault, tmp_path):
    before = vault.seal(ONE, ROWS).read_bytes()
    old_keys = {path.name: path.read_bytes() for path in (tmp_path / "keys" / "vault").iterdir()}
    wrapped = (vault.folder / f"{ONE}.key").read_bytes()
    assert rotate(vault, {}) == 1
    assert (vault.folder / f"{ONE}.sealed").read_bytes() == before, "what DVC pins does not change"
    assert len(vault_of(tmp_path, {}).open(ONE)) == len(ROWS)
    assert not old_keys.keys() - {"current"} & {path.name for path in (tmp_path / "keys" / "vault").iterdir()}
    assert (vault.folder / f"{ONE}.key").read_bytes() != wrapped
    (vault.folder / f"{ONE}.key").write_bytes(wrapped)
    with pytest.raises(VaultError, match="is not given here"):
        vault_of(tmp_path, {}).open(ONE)


def test_a_rotation_that_died_on_the_way_loses_nothing(vault, tmp_path):
    for request in (ONE, TWO):
        vault.seal(request, ROWS)
    damaged = vault.folder / f"{TWO}.key"
    kept = damaged.read_bytes()
    damaged.write_bytes(b"{")
    with pytest.raises(VaultError, match="damaged"):
        rotate(vault, {})
    damaged.write_bytes(kept)
    again = vault_of(tmp_path, {})
    assert [len(again.open(request)) for request in (ONE, TWO)] == [len(ROWS)] * 2
    assert rotate(again, {}) == 2
    assert len(list((tmp_path / "keys" / "vault").glob("*.kek"))) == 1


def test_a_key_from_the_environment_replaces_the_file(vault, tmp_path):
    vault.seal(ONE, ROWS)
    key, newer = (base64.b64encode(secrets.token_bytes(32)).decode() for _ in range(2))
    given = vault_of(tmp_path, {"SAU_VAULT_KEY": key})
    assert len(given.open(ONE)) == len(ROWS), "before it is rotated the file still unwraps"
    rotate(given, {"SAU_VAULT_KEY": key})
    assert list((tmp_path / "keys" / "vault").iterdir()) == []
    with pytest.raises(VaultError, match="is not given here"):
        vault_of(tmp_path, {}).open(ONE)
    two = {"SAU_VAULT_KEY": f"{newer},{key}"}
    rotate(vault_of(tmp_path, two), two)
    assert len(vault_of(tmp_path, {"SAU_VAULT_KEY": newer}).open(ONE)) == len(ROWS)
    for odd in ("short", base64.b64encode(b"x").decode()):
        with pytest.raises(VaultError):
            vault_of(tmp_path, {"SAU_VAULT_KEY": odd})


KMS = """
import base64, sys
verb, request = sys.argv[1:]
key = base64.b64decode(sys.stdin.read())
print(base64.b64encode(bytes(a ^ b for a, b in zip(key, (request * 9).encode()))).decode())
"""


def test_a_command_wraps_with_the_request_as_context_and_its_failures_are_a_line(tmp_path):
    script = tmp_path / "kms.py"
    script.write_text(KMS)
    command = {"SAU_VAULT_COMMAND": f"{sys.executable} {script}"}
    vault = vault_of(tmp_path, command)
    vault.seal(ONE, ROWS)
    assert len(vault.open(ONE)) == len(ROWS)
    assert json.loads((vault.folder / f"{ONE}.key").read_text())["kek"] == "command"
    assert not (tmp_path / "keys").exists()
    script.write_text("import sys; sys.exit(3)")
    with pytest.raises(VaultError, match="exit code 3"):
        vault.open(ONE)
    with pytest.raises(VaultError, match="cannot be run"):
        vault_of(tmp_path, {"SAU_VAULT_COMMAND": "/nowhere/kms"}).open(ONE)


def test_sealed_rows_are_read_where_rows_to_forget_are_and_only_with_a_vault(vault, tmp_path):
    folder = tmp_path / "forget"
    folder.mkdir()
    assert forget_rows(folder) is None
    for request, rows in ((ONE, ROWS[:3]), (TWO, ROWS[3:])):
        sealed = vault.seal(request, rows)
        (folder / sealed.name).write_bytes(sealed.read_bytes())
    with pytest.raises(VaultError, match="no vault"):
        forget_rows(folder)
    with reading_with(vault):
        assert sorted(forget_rows(folder), key=by_id) == sorted(ROWS, key=by_id)
    with pytest.raises(VaultError, match="no vault"):
        forget_rows(folder)


def test_a_clone_opens_rows_by_the_vault_it_is_pointed_to_and_makes_no_keys_of_its_own(vault, tmp_path):
    sealed = vault.seal(ONE, ROWS).read_bytes()
    with pytest.raises(VaultError, match="SAU_VAULT_HOME"):
        vault_of(tmp_path / "clone", {}).open(ONE, sealed)
    assert not (tmp_path / "clone").exists()
    there = vault_of(tmp_path / "clone", {"SAU_VAULT_HOME": str(tmp_path)})
    assert len(there.open(ONE, sealed)) == len(ROWS)


@pytest.mark.parametrize("name", ["../x", "", "a/b", "a\n", "x" * 65])
def test_a_request_id_that_could_be_a_path_is_refused(vault, name):
    with pytest.raises(VaultError, match="has to match"):
        vault.sealed(name)


def test_two_who_seal_at_once_agree_on_one_key(tmp_path):
    key = [secrets.token_bytes(32)]
    first, second = (Vault(tmp_path / "vault", GivenKeys(key)) for _ in range(2))
    first.seal(ONE, ROWS[:1])
    second.seal(ONE, ROWS[:1])
    assert first.data_key(ONE) == second.data_key(ONE)
