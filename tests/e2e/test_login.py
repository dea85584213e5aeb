"""MLflow behind a login (its own basic auth, a real server): a line is made there, and who is refused is told so."""

import json
from contextlib import contextmanager

import pytest

from tests.servers import answers, free_port, process, until
from tests.small_line import options

pytestmark = pytest.mark.long
USER, PASSWORD = "admin", "a-password-of-the-test"


@contextmanager
def server(folder, env):
    """An MLflow server with basic auth on loopback, its address."""
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        f"admin_username = {USER}\nadmin_password = {PASSWORD}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [
        "mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    own = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "a secret of the test",
        "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }  # fmt: skip
    with process(command, folder, env | own, folder / "mlflow.log"):
        until(lambda: answers(f"{url}/health"), f"the MLflow server answers, see {folder}/mlflow.log")
        yield url


def test_a_line_behind_a_login_is_made_and_who_is_refused_is_told_so(copy_checkout, tmp_path):
    checkout = copy_checkout(tmp_path / "checkout")
    with server(tmp_path, checkout.env()) as url:
        env = {"SAU_MLFLOW_TRACKING_URI": url, "MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
        made = json.loads(checkout.sau("bootstrap", *options(tmp_path), "--json", **env).stdout)
        assert made["tag"] == "tiny@v1"
        (shown,) = json.loads(checkout.sau("line", "show", "tiny", "--json", **env).stdout)
        assert (shown["weights_digest"], shown["aliases"]) == (made["weights_digest"], ["candidate", "champion"])
        assert "the stores agree" in checkout.sau("doctor", "--line", "tiny", **env).stdout
        wrong = {**env, "MLFLOW_TRACKING_PASSWORD": "another"}
        nobody = {name: value for name, value in env.items() if not name.startswith("MLFLOW_")}
        for command in (("line", "show", "tiny"), ("doctor", "--line", "tiny"), ("status", "--line", "tiny")):
            for given in (wrong, nobody):
                refused = checkout.sau(*command, check=False, **given)
                assert refused.returncode == 1
                said = refused.stdout + refused.stderr
                (line,) = [line for line in said.splitlines() if "does not let this login in" in line]
                assert "MLFLOW_TRACKING_USERNAME" in line
                assert PASSWORD not in said
                assert "another" not in said
