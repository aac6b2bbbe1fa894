"""The notebooks of the site run from top to bottom, and reach what their text says."""

import os
import re
import sys
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient", reason='notebooks are not executed: pip install -e ".[docs]"')
nbformat = pytest.importorskip("nbformat", reason='notebooks are not executed: pip install -e ".[docs]"')
pytest.importorskip("ipykernel", reason='notebooks are not executed: pip install -e ".[docs]"')

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "docs" / "notebooks"


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Run a notebook in an empty folder; the text of all its outputs."""

    def run(name: str) -> str:
        # A shell line of a notebook finds this environment's `counterview`, and this tree's package.
        monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
        notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
        client = nbclient.NotebookClient(
            notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
        )
        client.execute()
        streams = [o for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "stream"]
        return "".join(output.text for output in streams)

    return run


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_match_two_images(execute):
    text = execute("match_two_images.ipynb")
    assert float(re.search(r"mean IoU (\S+)", text)[1]) > 0.85
    visibilities = [float(v) for v in re.findall(r"visibility (\d\.\d\d)", text)]
    assert len(visibilities) == 6 + 1 + 6  # matched, by a point, sought elsewhere
    assert min(visibilities[:7]) > 0.5
    assert max(visibilities[7:]) < min(visibilities[:6])


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute alone; with everything else on two cores, several
def test_train_and_score(execute, tmp_path):
    pytest.importorskip("embreex", reason='the notebook renders takes: pip install -e ".[render]"')
    pytest.importorskip("accelerate", reason='the notebook trains: pip install -e ".[train]"')
    text = execute("train_and_score.ipynb")
    assert "counterview:" not in text  # what a command that failed prints
    scores = {(m[0], m[1]): float(m[2]) for m in re.findall(r"(knn|head) +(\w+2\w+): IoU (\S+),", text)}
    assert len(scores) == 4
    assert min(scores.values()) > 0.05  # an answer at the same place has 0.01
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert {path.stem for path in (tmp_path / "page").glob("*.html")} == {"index", "ego2exo", "exo2ego"}


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.name)
def test_committed_notebooks_were_run_in_order_and_without_an_error(path):
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error"]
    assert not re.search(r"/(?:work|home|root|tmp|Users)/", path.read_text(encoding="utf-8"))
