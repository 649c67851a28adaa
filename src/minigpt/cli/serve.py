"""The command that opens the page."""

from typing import Annotated

from cyclopts import Parameter

from minigpt.cli.app import Integer, Switch, app
from minigpt.cli.models import RunName
from minigpt.data.printable import printable

MAX_PORT = 65_535


@app.command
def serve(
    run: RunName,
    *,
    port: Integer | None = None,
    host: str = "127.0.0.1",
    no_open: Annotated[Switch, Parameter(name="--no-open")] = False,
) -> None:
    """Open a page in the browser to write with a model, to look inside it, and to follow its gradients and its training.

    By default, only this computer can reach the page. It needs no internet connection.

    Parameters
    ----------
    port
        Port of the server. [default: the first free port from 8642]
    host
        Address to listen on. With any other address than 127.0.0.1, the address of the page contains a token, and nobody
        can use the page without it.
    no_open
        Print the address of the page, but do not open the browser.
    """
    from minigpt.serve.server import serve as run_server

    if port is not None and not 0 <= port <= MAX_PORT:
        raise ValueError(f"--port is {port}, but must be from 0 to {MAX_PORT:,}")
    run_server(run, port=port, host=host, open_page=not no_open, say=lambda line: print(printable(line), flush=True))
