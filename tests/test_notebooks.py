"""Every notebook runs from its first cell to its last, in its own kernel, with less computation where it has a setting for it."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
# Put behind the cell tagged "parameters".
SMALL = {"scaling_law": "BUDGETS = {1e10: 2, 2e10: 1}"}


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs(path, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # a notebook has the machine as it is, not eight devices
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(path, 4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "clear the outputs before committing"
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source += "\n" + SMALL[path.stem]
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert any(cell.get("outputs") for cell in notebook.cells)
