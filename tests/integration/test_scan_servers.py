"""The residue scan where the stores are servers: PostgreSQL column by column, and a DVC remote that is no folder."""

import base64
import gzip
import json
import os

import pytest
from sqlalchemy import create_engine, text

from sau.errors import RequestError
from tasks.engines.ledger import Ledger
from tasks.engines.readout import read_out
from tasks.engines.settings import settings
from tasks.scan import DATA_SET, LEDGER, scan
from tests import postgres
from tests.apart import own_settings
from tests.servers import answers, free_port, process, until

CANARY = "Q7z Quästenburg canary"
SECRETS = {"canary": CANARY}
HIDDEN = {
    "plain": ("text", f"before {CANARY} after"),
    "numbered": ("varchar(80)", CANARY),
    "escaped": ("json", json.dumps({"a": [CANARY]})),
    "parsed": ("jsonb", json.dumps({CANARY: 1})),
    "wide": ("bytea", CANARY.encode("utf-16-le")),
    "packed": ("bytea", gzip.compress(f"x {CANARY}".encode())),
    "encoded": ("text", base64.b64encode(f"xx{CANARY}".encode()).decode()),
    "several": ("text[]", ["x", CANARY]),
}


@pytest.fixture(autouse=True)
def nothing_local(monkeypatch):
    """The files of the checkout are searched in other tests."""
    monkeypatch.setattr("tasks.scan._searched", lambda searcher: ())


@pytest.mark.long
@pytest.mark.skipif(postgres.programs() is None, reason="PostgreSQL is not installed")
def test_every_column_of_a_servers_databases_is_looked_into(tmp_path):
    with postgres.server() as url, own_settings(SAU_HOME=str(tmp_path), SAU_DATABASE_URL=url):
        Ledger(url).submit("tiny", f"{CANARY}@example.invalid")
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text("create schema other"))
            columns = ", ".join(f'"{name}" {kind}' for name, (kind, _) in HIDDEN.items())
            connection.execute(
                text(f'create table other."Odd ""table" (id int, at timestamptz default now(), {columns})')
            )
            for name, (_, value) in HIDDEN.items():
                connection.execute(
                    text(f'insert into other."Odd ""table" ("{name}") values (:value)'), {"value": value}
                )
            connection.execute(text('insert into other."Odd ""table" (id) select generate_series(1, 3000)'))
        found = scan(SECRETS)
        hits = {hit.where for store in found.residue for hit in store.hits}
        assert hits == {f"the ledger's database, Odd \"table.{name}" for name in HIDDEN}
        (ledger,) = [store for store in found.stores if store.store == LEDGER]
        assert [hit.where for hit in ledger.hits] == ["the ledger's database, requests.subject_id"]
        assert any("rows that were deleted and not vacuumed" in words for words in found.not_searched)
        assert CANARY not in found.model_dump_json()

        again = scan(SECRETS, [url])
        assert [store.store for store in again.stores] == [store.store for store in found.stores], "once is enough"
        with engine.begin() as connection:
            connection.execute(text('drop table other."Odd ""table"'))
        assert scan(SECRETS).residue == []
        engine.dispose()


def test_what_cannot_be_read_is_said_to_be_not_searched(tmp_path):
    gone = f"postgresql://user:secret@127.0.0.1:{free_port()}/prefect"
    with own_settings(SAU_HOME=str(tmp_path)):
        found = scan(SECRETS, [gone])
        said = " ".join(found.not_searched)
        assert "database prefect: cannot be read (OperationalError)" in said
        assert "secret" not in said
        for bad in ("prefect", "sqlite:///x.db", "http://server", "://"):
            with pytest.raises(RequestError, match="has to be a"):
                scan(SECRETS, [bad])
        with pytest.raises(RequestError, match="cannot be read"):
            list(read_out(gone))


@pytest.mark.long
def test_a_remote_that_is_no_folder_is_read_object_by_object(copy_checkout, tmp_path, monkeypatch):
    boto3 = pytest.importorskip("boto3")
    checkout = copy_checkout(tmp_path / "checkout")
    port = free_port()
    s3 = f"http://127.0.0.1:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "t", "AWS_SECRET_ACCESS_KEY": "t", "AWS_DEFAULT_REGION": "us-east-1"}
    with process(["moto_server", "-p", str(port)], tmp_path, {**os.environ, **keys}, tmp_path / "log"):
        until(lambda: answers(f"{s3}/moto-api/"), "the S3 store answers")
        variables = {**keys, "AWS_ENDPOINT_URL": s3, "SAU_ROOT": str(checkout.path), "SAU_HOME": str(tmp_path / "home")}
        with own_settings(**variables, SAU_DVC_REMOTE="s3://dvc/store"):
            settings()
            client = boto3.client("s3", endpoint_url=s3)
            client.create_bucket(Bucket="dvc")
            objects = {"ab" + "0" * 30: f"a row, {CANARY}".encode(), "cd" + "1" * 30: gzip.compress(CANARY.encode()),
                       "ee" + "2" * 30: b"nothing"}  # fmt: skip
            for md5, content in objects.items():
                client.put_object(Bucket="dvc", Key=f"store/files/md5/{md5[:2]}/{md5[2:]}", Body=content)
            monkeypatch.setattr("tasks.scan._data_objects", lambda: {"ab" + "0" * 30})
            found = {store.store: store for store in scan(SECRETS).stores}
            assert {name: store.files for name, store in found.items()} == {DATA_SET: 1, "DVC remote": 2}
            (hit,) = found["DVC remote"].hits
            assert hit.where.endswith(f"files/md5/cd/{'1' * 30}")
            assert len(found[DATA_SET].hits) == 1
