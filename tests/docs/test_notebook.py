"""examples/demo.ipynb: it runs, and is kept with the results of a whole run."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("nbclient", reason="executing the notebook needs the extra dev")
import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "demo.ipynb"


def text_of(cell: nbformat.NotebookNode) -> str:
    return "".join(output["text"] for output in cell.outputs if output.output_type == "stream")


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few updates and episodes, in a process of its own."""
    monkeypatch.setenv("DEMO_UPDATES", "20")
    monkeypatch.setenv("DEMO_EPISODES", "2")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = code_cells(notebook)
    assert "20 updates" in text_of(cells[2])
    assert "2 episodes a cell" in text_of(cells[3])
    assert "torch was imported: False" in text_of(cells[7])


def test_the_notebook_is_kept_with_its_results() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == [1, 2, 3, 4, 5, 6, 7, 8]
    pictures = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3
    assert NOTEBOOK.stat().st_size < 300_000
    assert not [output for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
