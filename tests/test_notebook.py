"""The notebook runs, and is committed with what it shows."""

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).parent.parent / 'notebooks' / 'inspect_masks.ipynb'


def pictures(notebook):
    outputs = [o for cell in notebook.cells for o in cell.get('outputs', [])]
    assert not [o for o in outputs if o.output_type == 'error']
    return sum('image/png' in o.get('data', {}) for o in outputs)


@pytest.mark.slow
def test_runs_and_shows_what_was_committed():
    committed = nbformat.read(NOTEBOOK, as_version=4)
    assert pictures(committed) >= 10
    fresh = nbformat.from_dict(committed)
    for cell in fresh.cells:
        if cell.cell_type == 'code':
            cell.outputs, cell.execution_count = [], None
    client = nbclient.NotebookClient(
        fresh, timeout=300, resources={'metadata': {'path': NOTEBOOK.parent}}
    )
    client.execute()
    assert pictures(fresh) == pictures(committed)
    text = ''.join(o.text for c in fresh.cells for o in c.get('outputs', []) if 'text' in o)
    assert 'PGS' in text
    assert 'random' in text
