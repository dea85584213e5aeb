"""A team's stores as processes on loopback: PostgreSQL, an S3 store, an MLflow server and a Prefect server."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests import postgres
from tests.servers import TOOLS, Server, answers, free_port, prefect_server, process, until

BUCKETS = ("mlflow", "dvc")


@contextmanager
def team_stack(folder: Path, base: dict[str, str]) -> Iterator[Server]:
    """The stack, as its Prefect server and the environment that users and workers name all of it by.

    The S3 store is moto's server: it keeps objects in memory and speaks S3's protocol, and is no store to run.

    Args:
        folder: of logs, and of the vault that the workers share.
        base: the environment on top of which it is named.
    """
    import boto3
    import psycopg2

    with ExitStack() as stack:
        url = stack.enter_context(postgres.server())
        socket = url.rpartition("=")[2]
        connection = psycopg2.connect(host=socket, user="sau", dbname="postgres")
        connection.autocommit = True
        for name in ("ledger", "mlflow", "prefect"):
            connection.cursor().execute(f"create database {name}")
        connection.close()

        def database(name: str, driver: str = "psycopg2") -> str:
            return f"postgresql+{driver}://sau@/{name}?host={socket}"

        s3 = f"http://127.0.0.1:{(s3_port := free_port())}"
        env = base | {
            "AWS_ACCESS_KEY_ID": "team", "AWS_SECRET_ACCESS_KEY": "team", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": s3, "MLFLOW_S3_ENDPOINT_URL": s3,
        }  # fmt: skip
        stack.enter_context(process(["moto_server", "-p", str(s3_port)], folder, env, folder / "s3.log"))
        until(lambda: answers(f"{s3}/moto-api/"), f"the S3 store answers, see {folder}/s3.log")
        keys = {"aws_access_key_id": "team", "aws_secret_access_key": "team", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=s3, **keys)
        for bucket in BUCKETS:
            client.create_bucket(Bucket=bucket)

        mlflow = f"http://127.0.0.1:{(mlflow_port := free_port())}"
        command = [
            "mlflow", "server", "--host", "127.0.0.1", "--port", str(mlflow_port), "--workers", "1",
            "--backend-store-uri", database("mlflow"), "--artifacts-destination", "s3://mlflow/artifacts",
        ]  # fmt: skip
        of_mlflow = env | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        stack.enter_context(process(command, folder, of_mlflow, folder / "mlflow.log"))
        env |= {
            "SAU_DATABASE_URL": database("ledger"), "SAU_MLFLOW_TRACKING_URI": mlflow, "SAU_DVC_REMOTE": "s3://dvc/store",
            "SAU_GIT_REMOTE": "origin", "SAU_VAULT_HOME": str(folder / "vault"), "SAU_LEASE_S": "10",
            "PREFECT_WORKER_QUERY_SECONDS": "2", "PATH": f"{TOOLS}:{base.get('PATH', '')}",
        }  # fmt: skip
        of_prefect = {
            "PREFECT_API_DATABASE_CONNECTION_URL": database("prefect", "asyncpg"),
            "PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION": "30",
        }
        server = stack.enter_context(prefect_server(_made(folder / "prefect"), env | of_prefect))
        until(lambda: answers(f"{mlflow}/health"), f"the MLflow server answers, see {folder}/mlflow.log")
        server.env = {name: value for name, value in server.env.items() if name not in of_prefect}
        yield server


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
