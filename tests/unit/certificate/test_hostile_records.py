"""A record from anywhere, signed by anybody: every command that reads one shows it, or says in one line why not."""

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from sau.certificate import envelope
from sau.certificate.files import check_subjects
from sau.certificate.log import append, read_log, read_record
from sau.certificate.record import PAYLOAD_TYPE
from sau.cli import app
from sau.errors import CertificateError, ConfigError, SauError
from tests.hostile import JSON, altered, damaged, examples, read_or_refused
from tests.unit.certificate.test_certificate import CHECK, evidence

KEY = envelope.new_key()
PUBLIC = envelope.public_pem(KEY)
SUBJECTS = [{"name": "weights.safetensors", "digest": {"sha256": "a" * 64}}]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A log of three records; read only."""
    folder = tmp_path_factory.mktemp("handed") / "log"
    for number in range(3):
        append(folder, KEY, SUBJECTS, evidence(f"r-{number:016x}"))
    return folder


@pytest.fixture(scope="module")
def statement(log):
    return read_record(sorted(log.glob("0*.json"))[0], PUBLIC).statement.to_json()


def asked(file, *commands):
    """What commands say of a record; a refusal is one of ours, and a line."""
    for words in commands:
        done = CliRunner().invoke(app, ["certificate", words[0], str(file), *words[1:]])
        if isinstance(done.exception, SauError):
            read_or_refused(lambda: (_ for _ in ()).throw(done.exception))  # noqa: B023  # called at once
        else:
            assert done.exit_code in (0, 2), (words, done.exception)
            assert "\x1b" not in done.output
            assert "\x07" not in done.output


EVERY = (
    ("show",), ("show", "--json"), ("letter",), ("letter", "--language", "de"), ("bom",),
    ("verify", "--public-key", PUBLIC), ("verify", "--json", "--public-key", PUBLIC),
    ("challenge", "--public-key", PUBLIC, "--nonce", "n"),
)  # fmt: skip


@examples(25)
@given(data=st.data())
def test_signed_records_with_values_of_any_kind(tmp_path, statement, data):
    """Whoever has a key signs what they like, and `show` asks for no key."""
    odd = data.draw(altered(statement))
    try:
        (tmp_path / "record.json").write_bytes(envelope.sign(odd, PAYLOAD_TYPE, KEY))
    except UnicodeEncodeError:
        return
    asked(tmp_path / "record.json", *EVERY)


@pytest.mark.parametrize(
    "text", ["[/red]", "[bold", "\x1b[2J\x07", "=1+1", "<script>", "{request}", "%s", "x" * 5000, "\u202e", "a\nb"]
)
def test_words_of_a_record_stay_words(tmp_path, statement, text):
    odd = json.loads(json.dumps(statement))
    found = odd["predicate"]
    found["request"]["ground"] = found["inputs"]["parent"] = text
    found["procedure"] |= {"method": text, "stopped": text}
    found["procedure"]["stages"] = [{"name": text, "command": text, "outs": {text: "4" * 32}}]
    found["checks"] = [CHECK | {"id": text, "verdict": text, "reason": text}]
    found |= {"reasons": [text], "limits": [text], "not_covered": [text]}
    odd["subject"][0]["name"] = text
    (tmp_path / "record.json").write_bytes(envelope.sign(odd, PAYLOAD_TYPE, KEY))
    asked(tmp_path / "record.json", *EVERY)
    entry = read_record(tmp_path / "record.json", PUBLIC)
    read_or_refused(lambda: check_subjects(entry.statement, tmp_path), CertificateError)


def test_a_command_to_be_copied_holds_no_other_command(tmp_path, statement):
    odd = json.loads(json.dumps(statement))
    odd["predicate"]["procedure"]["stages"] = [{"name": "$(reboot)", "command": "x", "outs": {}}]
    (tmp_path / "record.json").write_bytes(envelope.sign(odd, PAYLOAD_TYPE, KEY))
    words = ["certificate", "challenge", str(tmp_path / "record.json"), "--public-key", PUBLIC]
    said = CliRunner().invoke(app, words).output
    assert "git checkout tiny@v2 && dvc pull && dvc repro --force --single-item '$(reboot)'" in said


@pytest.mark.parametrize("text", ["[/red]", "\x1b[2J", "a\nb", "x" * 500, "a; rm -rf ~", "", "../x", "tiny@v2\n"])
def test_a_request_and_a_version_have_names(tmp_path, statement, text):
    for part, field in (("request", "id"), ("request", "line"), ("decision", "version")):
        odd = json.loads(json.dumps(statement))
        odd["predicate"][part][field] = text
        (tmp_path / "record.json").write_bytes(envelope.sign(odd, PAYLOAD_TYPE, KEY))
        assert read_or_refused(lambda: read_record(tmp_path / "record.json", PUBLIC), CertificateError) is None


@examples(15)
@given(data=st.data())
def test_a_log_of_which_any_file_was_damaged(tmp_path, log, data):
    shutil.rmtree(tmp_path / "log", ignore_errors=True)
    folder = shutil.copytree(log, tmp_path / "log")
    file = data.draw(st.sampled_from(sorted(folder.iterdir())))
    before = file.read_bytes()
    file.write_bytes(after := data.draw(damaged(before)))
    found = read_or_refused(lambda: read_log(folder, PUBLIC), (CertificateError, ConfigError))
    assert found is None or after == before
    asked(folder, ("verify", "--public-key", PUBLIC))


@examples(15)
@given(head=JSON)
def test_signed_heads_with_values_of_any_kind(tmp_path, log, head):
    shutil.rmtree(tmp_path / "log", ignore_errors=True)
    folder = shutil.copytree(log, tmp_path / "log")
    try:
        (folder / "head.json").write_bytes(envelope.sign(head, "application/vnd.sau.head+json", KEY))
    except UnicodeEncodeError:
        return
    assert read_or_refused(lambda: read_log(folder, PUBLIC), (CertificateError, ConfigError)) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b" " * (5 << 20), b"null", b"\x1f\x8b\x08", b"NaN",
     b'{"payload": "' + b"A" * (4 << 20) + b'"}'],
)  # fmt: skip
def test_what_is_no_record_is_a_line_to_every_command(tmp_path, content):
    (tmp_path / "record.json").write_bytes(content)
    asked(tmp_path / "record.json", *EVERY)
    assert read_or_refused(lambda: read_record(tmp_path / "record.json", None), CertificateError) is None


def test_places_that_are_no_files(tmp_path):
    (tmp_path / "000001-r.json").mkdir()
    for place in (tmp_path / "none.json", tmp_path, tmp_path / "000001-r.json", "/dev/zero"):
        asked(place, ("show",), ("verify", "--public-key", PUBLIC))
