"""The notebook runs, and is committed with what it shows."""

import os
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).parent.parent / 'notebooks' / 'inspect_masks.ipynb'


def pictures(notebook):
    outputs = [o for cell in notebook.cells for o in cell.get('outputs', [])]
    assert not [o for o in outputs if o.output_type == 'error']
    return sum('image/png' in o.get('data', {}) for o in outputs)


def first_cell():
    """The code of the cell for Colab."""
    return next(c.source for c in nbformat.read(NOTEBOOK, 4).cells if c.cell_type == 'code')


@pytest.fixture
def commands(monkeypatch):
    """What the cell runs and the folders it enters; nothing is run."""
    seen = []
    monkeypatch.setattr(subprocess, 'run', lambda command, check: seen.append(command))
    monkeypatch.setattr(os, 'chdir', seen.append)
    return seen


def test_colab_gets_the_project_and_its_packages(commands, monkeypatch):
    monkeypatch.setitem(sys.modules, 'google.colab', sys)
    monkeypatch.setitem(sys.modules, 'resvg_py', None)
    exec(first_cell(), {})
    clone, folder, install = commands
    assert clone[:2] == ['git', 'clone']
    assert clone[-1] == folder
    assert install == [sys.executable, '-m', 'pip', 'install', '-q', '.[quickstart]']


def test_elsewhere_nothing_is_installed(commands):
    exec(first_cell(), {})
    assert commands == []


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
