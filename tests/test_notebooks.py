"""The notebooks run from top to bottom, each within three minutes, and are kept with their outputs."""

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_all_are_there():
    assert [p.stem[:2] for p in NOTEBOOKS] == [f"0{k}" for k in range(1, 8)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_they_are_kept_as_they_ran(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [c for c in cells if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1)), "run from top to bottom"
    outputs = [o for c in code for o in c["outputs"]]
    assert outputs
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert path.stat().st_size < 400_000
    text = path.read_text(encoding="utf-8")
    assert "image/" in text, "a picture"
    assert "site-packages" not in text


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_they_run(path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient", reason="needs: pip install nbclient ipykernel")
    notebook = nbformat.read(path, as_version=4)
    # the machine may be half as fast as the one that a reader has
    nbclient.NotebookClient(notebook, timeout=330, resources={"metadata": {"path": str(FOLDER)}}).execute()
