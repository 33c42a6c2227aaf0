"""`nirvana app`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from nirvana.commands.command import Command
from nirvana.errors import RunError


class AppCommand(Command):
    """Serve the dashboard."""

    name = "app"
    group = "dashboard"
    example = "nirvana app --port 8600"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--port", type=int, default=8501, help="port of the server (default: 8501)")
        parser.add_argument("--address", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
        parser.add_argument("options", nargs="*", help="further options of `streamlit run`, after --")

    def run(self, arguments: argparse.Namespace) -> None:
        from nirvana.site_folder import site_folder

        script = site_folder() / "app.py"
        if not script.is_file():
            raise RunError(f"The dashboard is not installed: {script} is missing.", "Install the package again.")
        line = [sys.executable, "-m", "streamlit", "run", str(script)]
        line += ["--server.port", str(arguments.port), "--server.address", arguments.address, *arguments.options]
        if os.name == "nt":
            sys.exit(subprocess.call(line))
        os.execv(sys.executable, line)  # Ctrl+C and signals reach the server itself
