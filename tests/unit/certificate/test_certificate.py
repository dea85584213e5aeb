"""Evidence records: signed, verified by a second person, and refused wherever anything in them was changed."""

import base64
import copy
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner

from sau.certificate import envelope
from sau.certificate.bom import bom
from sau.certificate.challenge import challenge
from sau.certificate.files import subjects_of
from sau.certificate.letter import languages, letter
from sau.certificate.log import HEAD, append, read_log, read_record
from sau.certificate.record import schema
from sau.cli import app
from sau.errors import CertificateError, ConfigError

SCHEMA = Path(__file__).parents[3] / "sau" / "certificate" / "evidence.schema.json"
AT = "2026-03-01T10:00:00Z"
CHECK = {
    "id": "residual_knowledge", "version": 3, "applied_to": "a" * 64, "mandatory": True, "n": 20, "statistic": 0.01,
    "interval": [-0.1, 0.2], "margin": [None, 0.4], "before": 1.0, "reference": None, "people_who_stay": 1.0,
    "strangers": 0.04, "p": 0.5, "power": 0.9, "verdict": "PASS", "reason": "within the margin",
}  # fmt: skip


def evidence(request="r-0123456789abcdef", verdict="PASS", leads=True, purge=()):
    return {
        "request": {
            "id": request, "line": "tiny", "ground": "objection", "received_at": AT, "deadline_at": AT,
            "num_records": 20, "num_requests": 1, "commitment": "c" * 64, "key": "held",
        },
        "decision": {"version": "tiny@v2", "leads": leads, "at": AT},
        "inputs": {
            "parent": "tiny@v1", "parent_weights": "b" * 64, "mask": "d" * 64, "sparsity": 0.5,
            "structure": "unstructured", "data": "e" * 32 + ".dir", "base": "f" * 32 + ".dir", "params": "1" * 64,
            "git_commit": "2" * 40, "code_commit": "3" * 40, "checkout_dirty": False,
        },
        "procedure": {
            "method": "calibrated", "redistribution": "natural", "seed": 1, "num_steps": 40, "stopped": "reached",
            "device": "cpu", "seconds": 12.5, "settings": {"unlearn.lr": "0.001"}, "surroundings": {"torch": "2.13.0"},
            "stages": [
                {"name": name, "command": f"python -m sau stage {name}", "outs": {f"out/{name}": "4" * 32}}
                for name in ("snapshot", "unlearn", "package")
            ],
            "num_rows": {"forget": 20, "retain": 400},
        },
        "policy": {"name": "standard", "version": 3, "digest": "5" * 64, "judged_against": "24 people"},
        "checks": [CHECK],
        "stressors": ["int4"],
        "utility": {"unlearned": {"retain/probability": 0.9}},
        "verdict": verdict,
        "batch_verdict": verdict,
        "reasons": ["every mandatory check passed"],
        "purge": list(purge),
        "not_covered": ["backups"],
        "limits": ["nothing is proved"],
    }  # fmt: skip


@pytest.fixture
def key():
    return envelope.new_key()


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"numbers")
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def entry(tmp_path, key, checkpoint):
    return append(tmp_path / "log", key, subjects_of(checkpoint), evidence())


def leaves(value, path=()):
    """The path of every leaf and every empty container."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not pairs:
        yield path
    for name, inner in pairs:
        yield from leaves(inner, (*path, name))


def mutated(value, path):
    """A copy with one leaf changed as little as its type allows."""
    changed = copy.deepcopy(value)
    place = changed
    for name in path[:-1]:
        place = place[name]
    old = place[path[-1]]
    place[path[-1]] = (
        (not old) if isinstance(old, bool)
        else old + 1 if isinstance(old, int | float)
        else [None] if isinstance(old, list)
        else 0 if old is None
        else old[:-1] + ("0" if old[-1:] != "0" else "1")
    )  # fmt: skip
    return changed


def test_a_record_says_what_was_signed_and_follows_the_published_schema(entry, key):
    read = read_record(entry.path, envelope.public_pem(key))
    assert read.evidence.verdict == "PASS"
    assert read.evidence.sequence == 1
    assert json.loads(SCHEMA.read_text()) == schema(), "write it anew: sau certificate schema"
    jsonschema.Draft202012Validator(schema()).validate(read.statement.to_json())
    assert entry.path.stat().st_mode & 0o777 == 0o600


def test_a_change_of_any_field_of_the_payload_or_the_envelope_is_seen(entry, key, tmp_path):
    public = envelope.public_pem(key)
    whole = json.loads(entry.path.read_bytes())
    payload = json.loads(base64.b64decode(whole["payload"]))
    paths = list(leaves(payload))
    assert len(paths) > 70
    file = tmp_path / "changed.json"
    for path in paths:
        changed = mutated(payload, path)
        assert changed != payload, path
        encoded = base64.b64encode(json.dumps(changed, sort_keys=True, ensure_ascii=False).encode()).decode()
        file.write_text(json.dumps(whole | {"payload": encoded}))
        with pytest.raises(CertificateError):
            read_record(file, public)
    for path in leaves(whole):
        file.write_text(json.dumps(mutated(whole, path)))
        with pytest.raises(CertificateError):
            read_record(file, public)
    file.write_text(json.dumps(whole))
    assert read_record(file, public).digest != entry.digest, "the same record in another file is not the log's"


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"payload":"","payloadType":"x","signatures":[]}', b"{" * 10000],
)
def test_what_is_no_envelope_is_refused_in_a_line(content, key, tmp_path):
    (tmp_path / "f.json").write_bytes(content)
    with pytest.raises(CertificateError):
        read_record(tmp_path / "f.json", envelope.public_pem(key))


def test_another_key_and_what_is_no_key_are_refused(entry, tmp_path):
    with pytest.raises(CertificateError, match="another key"):
        read_record(entry.path, envelope.public_pem(envelope.new_key()))
    (tmp_path / "odd.pem").write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    with pytest.raises(ConfigError, match="Ed25519"):
        envelope.read_key(str(tmp_path / "odd.pem"))


def test_a_record_without_the_fields_of_the_schema_is_refused_though_signed(key, tmp_path):
    public = envelope.public_pem(key)
    (tmp_path / "f.json").write_bytes(envelope.sign({"_type": "x"}, "application/vnd.in-toto+json", key))
    with pytest.raises(CertificateError, match="subject"):
        read_record(tmp_path / "f.json", public)


# -- the log ------------------------------------------------------------------------------------------


def log_of(folder, key, checkpoint, count=3):
    return [append(folder, key, subjects_of(checkpoint), evidence(f"r-{n:016x}")) for n in range(count)]


def test_a_log_that_lost_gained_or_exchanged_a_record_is_seen(key, checkpoint, tmp_path):
    public, folder = envelope.public_pem(key), tmp_path / "log"
    entries = log_of(folder, key, checkpoint)
    assert [e.digest for e in read_log(folder, public)] == [e.digest for e in entries]
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}

    def broken(change, match):
        change()
        with pytest.raises(CertificateError, match=match):
            read_log(folder, public)
        for path in folder.iterdir():
            path.unlink()
        for name, content in kept.items():
            (folder / name).write_bytes(content)

    broken(entries[2].path.unlink, "the tail was cut off")
    broken(entries[1].path.unlink, "not the record that follows")
    broken((folder / HEAD).unlink, "no head.json")
    broken(lambda: entries[2].path.write_bytes(entries[1].path.read_bytes()), "not the record that follows")
    other = tmp_path / "other"
    log_of(other, key, checkpoint, count=4)
    broken(lambda: (folder / HEAD).write_bytes((other / HEAD).read_bytes()), "the tail was cut off")


def test_a_writer_that_died_between_record_and_head_is_taken_up(key, checkpoint, tmp_path):
    public, folder = envelope.public_pem(key), tmp_path / "log"
    log_of(folder, key, checkpoint, count=1)
    head = (folder / HEAD).read_bytes()
    log_of_two = append(folder, key, subjects_of(checkpoint), evidence("r-00000000000000aa"))
    (folder / HEAD).write_bytes(head)  # as it was before the second one's head
    assert read_log(folder, public)[-1].digest == log_of_two.digest
    append(folder, key, subjects_of(checkpoint), evidence("r-00000000000000bb"))
    assert [e.evidence.sequence for e in read_log(folder, public)] == [1, 2, 3]


def test_nothing_is_signed_on_top_of_a_cut_log(key, checkpoint, tmp_path):
    entries = log_of(tmp_path / "log", key, checkpoint)
    entries[2].path.unlink()
    with pytest.raises(CertificateError, match="cut off"):
        append(tmp_path / "log", key, subjects_of(checkpoint), evidence())


# -- the command line, without any project ------------------------------------------------------------


def test_a_second_person_verifies_in_an_empty_folder_with_the_public_key_alone(entry, key, checkpoint, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "record.json").write_bytes(entry.path.read_bytes())
    (empty / "public.pem").write_text(envelope.public_pem(key))
    code = "import sys; sys.modules['flows'] = None; from sau.cli import main; main()"  # the wheel alone

    def verify(*args):
        return subprocess.run(
            [sys.executable, "-c", code, "certificate", "verify", "record.json", "--public-key", "public.pem", *args],
            cwd=empty, capture_output=True, text=True, env={"PYTHONPATH": str(SCHEMA.parents[2]), "COLUMNS": "200"},
        )  # fmt: skip

    done = verify("--files", str(checkpoint))
    assert done.returncode == 0, done.stderr
    assert "PASS" in done.stdout
    assert "the files are those it is about" in done.stdout
    (checkpoint / "weights.safetensors").write_bytes(b"others")
    done = verify("--files", str(checkpoint))
    assert (done.returncode, "weights.safetensors differs" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("verdict", "leads", "code"),
    [("PASS", True, 0), ("PASS", False, 2), ("FAIL", False, 2), ("INCONCLUSIVE", False, 2)],
)
def test_valid_and_not_pass_is_exit_code_2(verdict, leads, code, key, checkpoint, tmp_path):
    made = append(tmp_path / "log", key, subjects_of(checkpoint), evidence(verdict=verdict, leads=leads))
    args = ["certificate", "verify", str(made.path), "--public-key", envelope.public_pem(key)]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == code
    assert verdict in done.output
    assert CliRunner().invoke(app, [*args[:2], str(tmp_path / "log"), *args[3:]]).exit_code == code


def test_a_record_is_shown_without_a_key_and_says_it_was_not_verified(entry):
    done = CliRunner().invoke(app, ["certificate", "show", str(entry.path)])
    assert done.exit_code == 0
    for shown in ("r-0123456789abcdef", "residual_knowledge", "not verified", "nothing is proved"):
        assert shown in done.output


# -- what is written from it --------------------------------------------------------------------------


def test_an_auditors_choice_follows_from_record_and_nonce_and_nobody_can_foresee_it(entry, key, checkpoint, tmp_path):
    nonces = [f"{n:032x}" for n in range(300)]
    chosen = [challenge(entry, nonce) for nonce in nonces]
    assert chosen[7] == challenge(entry, nonces[7])
    for stage in ("snapshot", "unlearn", "package"):
        assert 60 < sum(stage in found.stages for found in chosen) < 140
    rows = [row for found in chosen for row in found.rows["forget"]]
    assert all(len(set(found.rows["forget"])) == 5 for found in chosen)
    assert set(rows) == set(range(1, 21))
    other = append(tmp_path / "log", key, subjects_of(checkpoint), evidence("r-00000000000000cc"))
    assert challenge(other, nonces[0]).rows != chosen[0].rows
    assert challenge(entry, nonces[0], num_stages=9, num_rows=50).rows["forget"] == list(range(1, 21))
    with pytest.raises(ConfigError, match="nonce"):
        challenge(entry, "short")


def test_letters_in_every_language_say_the_same_things(entry, key, checkpoint, tmp_path):
    assert languages() == ["de", "en"]
    for language, day in (("en", "01 March 2026"), ("de", "01.03.2026")):
        text = letter(entry.evidence, entry.digest, language=language)
        for shown in (day, "r-0123456789abcdef", "tiny@v2", entry.digest, "20"):
            assert shown in text
        page = letter(entry.evidence, entry.digest, language=language, html=True)
        assert f'lang="{language}"' in page
        assert entry.digest in page
    failed = append(tmp_path / "log", key, subjects_of(checkpoint), evidence(verdict="FAIL", leads=False))
    said = letter(failed.evidence, failed.digest)
    assert "not in use" in said
    assert "found nothing beyond" not in said
    with pytest.raises(ConfigError, match="de, en"):
        letter(entry.evidence, entry.digest, language="fr")


@pytest.mark.parametrize(
    ("residual", "words"), [("", "were deleted as well, and we looked"), ("backups", "not be cleaned")]
)
def test_a_letter_says_partial_where_a_purge_was_partial(residual, words, key, checkpoint, tmp_path):
    cleaned = {"store": "cache", "action": "deleted", "at": AT, "verified_by": "scan", "residual": residual}
    made = append(tmp_path / "log", key, subjects_of(checkpoint), evidence(purge=[cleaned]))
    assert words in letter(made.evidence, made.digest)


def test_a_page_shows_markup_as_text(entry):
    odd = entry.evidence.model_copy(
        update={"decision": entry.evidence.decision.model_copy(update={"version": "<script>x</script>@v2"})}
    )
    assert "<script>" not in letter(odd, entry.digest, html=True)


def test_the_bill_of_materials_names_files_data_libraries_and_numbers(entry):
    found = bom(entry.statement)
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    assert {part["name"] for part in found["components"]} >= {"weights.safetensors", "torch"}
    model = found["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    (metric,) = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert (metric["type"], metric["value"]) == ("residual_knowledge", "0.01")
    assert found == bom(entry.statement), "the same bytes each time"
