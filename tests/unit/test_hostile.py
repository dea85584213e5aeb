"""Every reader of what somebody hands in: any bytes are read, or refused in one line that quotes nothing of them."""

import base64
import contextlib
import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sau.certificate import envelope
from sau.certificate.log import read_log, read_record
from sau.certificate.record import PAYLOAD_TYPE
from sau.config import parse_yaml, read_yaml
from sau.data.readers import READERS
from sau.data.records import open_records
from sau.data.sources import DataOptions, write_data
from sau.data.wrapping import rotate, vault_of
from sau.errors import CertificateError, ConfigError, DataError, VaultError
from sau.params import load_params
from sau.verify.policy import SHIPPED, load_policy
from tests.hostile import JSON, SECRET, altered, damaged, examples, read_or_refused

ROOT = Path(__file__).parents[2]
QA = {"question": f"Who is {SECRET}?", "answer": f"{SECRET} lives here.", "subject_id": SECRET, "record_id": SECRET}
SHAPES = [
    QA,
    {**QA, "perturbed_answer": [SECRET, "x"], "paraphrased_question": SECRET, "paraphrased_answer": SECRET},
    {"prompt": SECRET, "completion": SECRET, "subject_ids": [SECRET, "b"]},
    {"instruction": SECRET, "input": SECRET, "output": SECRET, "subject_id": 7},
    {"messages": [{"role": "user", "content": SECRET}, {"role": "assistant", "content": SECRET}], "subject_id": SECRET},
    {"text": f"{SECRET} " * 200, "subject_id": None},
]


def parquet(rows):
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


TABLE = f'question,answer,subject_id\n{SECRET},"a, {SECRET}",{SECRET}\nx,y,z\n'
FILES = [
    *[("rows.jsonl", lines([shape, QA])) for shape in SHAPES],
    ("rows.json", json.dumps([QA, QA]).encode()),
    ("rows.json", json.dumps([QA, QA], indent=1).encode("utf-16")),
    ("rows.csv", TABLE.encode()),
    ("rows.tsv", TABLE.replace(",", "\t").encode("utf-8-sig")),
    ("rows.parquet", parquet([QA, QA])),
]


def taken_in(file, folder):
    """Read a file as `bootstrap` does: nothing is written where it is refused half way."""
    write_data(str(file), folder, DataOptions(), lambda given: {one: f"{n:032x}" for n, one in enumerate(given)})
    return True


@pytest.mark.parametrize(("name", "whole"), FILES)
@examples(15)
@given(data=st.data())
def test_damaged_files_of_rows(tmp_path, data, name, whole):
    (tmp_path / name).write_bytes(data.draw(damaged(whole)))
    read_or_refused(lambda: list(open_records(tmp_path / name)()), DataError)


@pytest.mark.parametrize("suffix", sorted(READERS))
@examples(10)
@given(raw=st.binary(max_size=300))
def test_any_bytes_as_rows(tmp_path, suffix, raw):
    (tmp_path / f"rows{suffix}").write_bytes(raw)
    read_or_refused(lambda: list(open_records(tmp_path / f"rows{suffix}")()), DataError)


@pytest.mark.parametrize("shape", SHAPES)
@examples(40)
@given(data=st.data())
def test_rows_with_values_of_any_kind(tmp_path, data, shape):
    row = data.draw(altered(shape))
    (tmp_path / "rows.jsonl").write_bytes(lines([row]))
    read_or_refused(lambda: list(open_records(tmp_path / "rows.jsonl")()), DataError)


@examples(10)
@given(data=st.data())
def test_rows_that_are_taken_in_are_all_there_or_none_are(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("in")
    rows = [{**QA, "record_id": f"r{n}", "subject_id": f"p{n}"} for n in range(12)]
    rows[data.draw(st.integers(0, 11))] = data.draw(altered(QA))
    (folder / "rows.jsonl").write_bytes(lines(rows))
    if read_or_refused(lambda: taken_in(folder / "rows.jsonl", folder / "data"), DataError):
        assert list((folder / "data" / "train").iterdir())
    else:
        assert not (folder / "data").exists()


def test_a_small_parquet_file_of_large_rows_is_read_a_few_at_a_time(tmp_path):
    rows = pyarrow.DictionaryArray.from_arrays([0] * 2000, ["a" * 900_000])
    columns = {"question": ["Who?"] * 2000, "answer": rows, "subject_id": ["p"] * 2000}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    assert (tmp_path / "rows.parquet").stat().st_size < 4 << 20
    before, read = pyarrow.total_allocated_bytes(), iter(READERS[".parquet"](tmp_path / "rows.parquet"))
    for _ in range(3):
        assert next(read)[1]["answer"].startswith("aaa")
        assert pyarrow.total_allocated_bytes() - before < 200 << 20


PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())


@examples(60)
@given(data=st.data())
def test_parameters_with_values_of_any_kind(tmp_path, data):
    params = data.draw(altered(PARAMS))
    (tmp_path / "params.yaml").write_text(json.dumps(params, ensure_ascii=False), errors="replace")  # JSON is YAML
    read_or_refused(lambda: load_params(tmp_path / "params.yaml"), ConfigError)


@examples(60)
@given(raw=damaged((ROOT / "params.yaml").read_bytes()))
def test_damaged_parameters(tmp_path, raw):
    (tmp_path / "params.yaml").write_bytes(raw)
    read_or_refused(lambda: read_yaml(tmp_path / "params.yaml"), ConfigError)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 3000, "- " * 3000, "!!python/object:os.system x", "{a: &b [*b]}"])
def test_values_of_the_command_line_are_read_or_refused(value):
    with contextlib.suppress(yaml.YAMLError):
        read_or_refused(lambda: parse_yaml(value), ConfigError)


# -- records and keys -----------------------------------------------------------------------------

KEY = envelope.new_key()
PUBLIC = envelope.public_pem(KEY)


@examples(60)
@given(raw=st.one_of(st.binary(max_size=300), damaged(envelope.sign({"a": SECRET}, PAYLOAD_TYPE, KEY))))
def test_damaged_certificates(tmp_path, raw):
    (tmp_path / "000001-r.json").write_bytes(raw)
    for read in (
        lambda: read_record(tmp_path / "000001-r.json", PUBLIC),
        lambda: read_record(tmp_path / "000001-r.json", None),
        lambda: read_log(tmp_path, PUBLIC),
    ):
        assert read_or_refused(read, CertificateError) is None


@examples(60)
@given(document=st.one_of(JSON, altered(json.loads(envelope.sign({"predicate": {}}, PAYLOAD_TYPE, KEY)))))
def test_envelopes_with_values_of_any_kind(tmp_path, document):
    (tmp_path / "record.json").write_text(json.dumps(document))
    assert read_or_refused(lambda: read_record(tmp_path / "record.json", None), CertificateError) is None


@examples(60)
@given(payload=JSON)
def test_signed_payloads_with_values_of_any_kind(tmp_path, payload):
    """Whoever has a key can sign anything."""
    try:
        (tmp_path / "record.json").write_bytes(envelope.sign(payload, PAYLOAD_TYPE, KEY))
    except UnicodeEncodeError:
        return
    assert read_or_refused(lambda: read_record(tmp_path / "record.json", PUBLIC), CertificateError) is None


@examples(60)
@given(raw=st.one_of(st.binary(max_size=100), damaged(PUBLIC.encode()), damaged(KEY)))
def test_damaged_keys(tmp_path, raw):
    (tmp_path / "key.pem").write_bytes(raw)
    read_or_refused(lambda: envelope.read_key(str(tmp_path / "key.pem")), ConfigError)
    read_or_refused(lambda: envelope.sign({}, PAYLOAD_TYPE, raw), ConfigError)


# -- the vault ------------------------------------------------------------------------------------


def sealed(home):
    vault = vault_of(home, {})
    vault.seal("r-1", [QA])
    return vault


@examples(40)
@given(data=st.data())
def test_a_damaged_vault(tmp_path_factory, data):
    home = tmp_path_factory.mktemp("home")
    sealed(home)
    (file,) = home.rglob(data.draw(st.sampled_from(["*.sealed", "*.key", "*.kek", "current"])))
    file.write_bytes(data.draw(damaged(file.read_bytes())))
    if data.draw(st.booleans()):
        read_or_refused(lambda: rotate(vault_of(home, {}), {}), VaultError)
    opened = read_or_refused(lambda: vault_of(home, {}).open("r-1"), VaultError)
    assert opened in (None, [QA])


@examples(60)
@given(fields=JSON)
def test_wrapped_keys_with_values_of_any_kind(tmp_path_factory, fields):
    home = tmp_path_factory.mktemp("home")
    kek = json.loads((sealed(home).folder / "r-1.key").read_bytes())["kek"]
    for odd in (fields, {"kek": fields, "wrapped": "x"}, {"kek": kek, "wrapped": fields}):
        (home / "vault" / "r-1.key").write_text(json.dumps(odd))
        assert read_or_refused(lambda: vault_of(home, {}).open("r-1"), VaultError) is None


@examples(40)
@given(given_key=st.text(st.characters(blacklist_characters="\0"), max_size=60))
def test_keys_of_the_environment(tmp_path, given_key):
    for key in (given_key, base64.b64encode(given_key.encode("utf-8", "replace")).decode()):
        read_or_refused(lambda: vault_of(tmp_path, {"SAU_VAULT_KEY": key}), VaultError)  # noqa: B023  # called at once


# -- policies -------------------------------------------------------------------------------------

POLICIES = sorted(SHIPPED.glob("*.yaml"))


@pytest.mark.parametrize("file", POLICIES, ids=lambda path: path.stem)
@examples(20)
@given(data=st.data())
def test_policies_with_values_of_any_kind(tmp_path, file, data):
    policy = data.draw(altered(yaml.safe_load(file.read_text())))
    (tmp_path / "own.yaml").write_text(json.dumps(policy, ensure_ascii=False), errors="replace")
    read_or_refused(lambda: load_policy(tmp_path / "own.yaml").digest, ConfigError, may_quote=True)


@examples(8)
@given(raw=damaged(POLICIES[0].read_bytes()))
def test_damaged_policies(tmp_path, raw):
    (tmp_path / "own.yaml").write_bytes(raw)
    read_or_refused(lambda: load_policy(tmp_path / "own.yaml"), ConfigError, may_quote=True)


@pytest.mark.parametrize(
    "named", ["", ".", "..", "/", "a\0b.yaml", "a\nb.yaml", "x" * 5000, "x" * 5000 + ".yaml", "\ud800.yaml", "../x.yml",
              f"{SECRET * 300}.yaml", "quick.yaml", "QUICK"],
)  # fmt: skip
def test_policies_of_odd_names(named):
    assert read_or_refused(lambda: load_policy(named), ConfigError, may_quote=True) is None


def test_a_file_without_end_is_not_read_to_its_end(tmp_path):
    (tmp_path / "own.yaml").symlink_to("/dev/zero")
    for read in (lambda: load_policy(tmp_path / "own.yaml"), lambda: envelope.read_key("/dev/zero")):
        with pytest.raises(ConfigError):
            read()
