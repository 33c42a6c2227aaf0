"""Build step: the dashboard's script, pages and settings go into the package, so that a wheel can serve them."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SITE = "nirvana/dashboard/site"  # where `nirvana.site_folder` looks for them


class BuildWithSite(build_py):
    """Copies app.py, pages/ and .streamlit/ beside the modules."""

    def run(self) -> None:
        """Build the modules, then copy the site; an editable install serves the checkout itself."""
        super().run()
        if self.editable_mode:
            return
        root, target = Path(__file__).parent, Path(self.build_lib) / SITE
        for file in (root / "app.py", *sorted(root.glob("pages/*.py")), root / ".streamlit" / "config.toml"):
            copy = target / file.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


setup(cmdclass={"build_py": BuildWithSite})
