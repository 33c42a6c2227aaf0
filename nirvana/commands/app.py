"""`nirvana app`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from nirvana.commands.command import Command
from nirvana.errors import RunError
from nirvana.options import add_fields, given
from nirvana.schema import Schema, option


class Server(Schema):
    """Place of the dashboard's server, and how long its workers keep their memory."""

    port: int = option(8501, "--port", "port of the server", ge=1, le=65_535)
    address: str = option("127.0.0.1", "--address", "address to listen on")
    idle_minutes: float = option(
        10.0,
        "--idle-minutes",
        "after which a worker without jobs gives its memory back; 0 for never",
        ge=0,
        le=1_000_000,
    )


class AppCommand(Command):
    """Serve the dashboard."""

    name = "app"
    group = "dashboard"
    example = "nirvana app --port 8600"
    has_json = False

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_fields(parser, Server)
        parser.add_argument("options", nargs="*", help="further options of `streamlit run`, after --")

    def run(self, arguments: argparse.Namespace) -> None:
        from nirvana.jobs.lane import IDLE_MINUTES
        from nirvana.site_folder import site_folder

        server, script = Server(**given(Server, arguments)), site_folder() / "app.py"
        if not script.is_file():
            raise RunError(f"The dashboard is not installed: {script} is missing.", "Install the package again.")
        if "idle_minutes" in given(Server, arguments):
            os.environ[IDLE_MINUTES] = str(server.idle_minutes)
        line = [sys.executable, "-m", "streamlit", "run", str(script)]
        line += ["--server.port", str(server.port), "--server.address", server.address, *arguments.options]
        if os.name == "nt":
            sys.exit(subprocess.call(line))
        os.execv(sys.executable, line)  # replaces this process, so that signals reach the server
