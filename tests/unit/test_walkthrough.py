"""The notebook of the Python API: stored without outputs, and executed from the first to the last cell."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs/walkthrough.ipynb"


def test_the_notebook_runs_and_recovery_helps(tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    root = str(NOTEBOOK.parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    check = "assert kl['dense'] == 0 < kl['recovered'] < kl['pruned'] and reloaded == perplexity['recovered']"
    notebook.cells.append(nbformat.v4.new_code_cell(check))  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    text = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "of the parameters are left" in text and "perplexity after reloading" in text
