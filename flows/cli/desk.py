"""`sau desk`."""

import contextlib
import getpass
from typing import Annotated

import typer

from sau.cli.app import app
from sau.cli.console import out, plain
from sau.errors import ConfigError


@app.command()
def desk(
    host: Annotated[
        str, typer.Option(help="Where to listen; anything but this machine needs TLS in front.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="On which port.", min=1, max=65535)] = 8787,
    name: Annotated[list[str] | None, typer.Option(help="A further name it is called by; repeat for more.")] = None,
) -> None:
    """Pages for the privacy officer on this machine, until Ctrl-C: requests, deadlines, decisions, versions."""
    import uvicorn

    from flows.desk.access import LOOPBACK, Access, read_roles
    from flows.desk.app import create_app
    from tasks.engines.settings import settings

    loaded = settings()
    header = loaded.desk_user_header
    if header and not loaded.desk_users:
        raise ConfigError("SAU_DESK_USER_HEADER: SAU_DESK_USERS has to say who may come in, as ada=officer,eve=auditor")
    access = Access(read_roles(loaded.desk_users, getpass.getuser()), header)
    hosts = [*LOOPBACK, *(name or []), *([host] if host not in ("0.0.0.0", "::") else [])]
    config = uvicorn.Config(
        create_app(access, hosts), host=host, port=port, log_level="warning", access_log=False, server_header=False,
        proxy_headers=False,
    )  # fmt: skip
    listening = config.bind_socket()
    listening.listen()  # who follows a link at once has to wait, and is not refused
    shown = f"[{host}]" if ":" in host else host
    if header:
        out.print(f"http://{shown}:{port} for the proxy that sets {plain(header)}", highlight=False)
    else:
        for who, role in access.roles.items():
            link = f"http://{shown}:{port}/enter?token={access.token(who)}"
            out.print(f"{plain(who)}, {role}: {link}", highlight=False, soft_wrap=True)
    out.print("Ctrl-C ends it; a link is good until then.", highlight=False)
    with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises again when it has ended
        uvicorn.Server(config).run(sockets=[listening])
