"""From a folder of images to a curve, by the commands of docs/data.md, and no file edited."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import corpus
import preloaded
import pytest
from test_main import FLAGS

ROOT = Path(__file__).parents[1]
SECTION = '## Your own images'
TINY = [f for f in FLAGS if 'data.name' not in f] + ['--config.eval_every=2']


def documented_commands() -> list[list[str]]:
    """The first block of commands in the section."""
    section = (ROOT / 'docs' / 'data.md').read_text().split(SECTION)[1].split('\n## ')[0]
    lines = [line.strip() for line in section.splitlines() if line.startswith('    ')]
    return [shlex.split(line, comments=True) for line in lines[:3]]


@pytest.mark.slow
def test_three_commands_lead_from_a_folder_to_a_curve(tmp_path):
    photos = tmp_path / 'PHOTOS'
    photos.mkdir()
    for i in range(40):
        (photos / f'{i}.jpg').write_bytes(corpus.encoded(corpus.photo(i)))
        (photos / f'{i}.txt').write_text(f'photograph {i}\na part of a cup, number {i}\n')
    prepare, train, show = documented_commands()
    assert prepare[:3] == ['python', '-m', 'input_pipeline.prepare']
    assert train[:2] == ['python', 'main.py']
    for command in (prepare, [*train, *TINY]):
        # Relative paths of the page, and the modules and configs of the checkout.
        command = [part.replace('configs/', f'{ROOT}/configs/') for part in command]
        if command[1] == 'main.py':
            command[1] = str(ROOT / 'main.py')
        done = subprocess.run(
            [*preloaded.python(), *command[1:]],
            cwd=tmp_path,
            env=os.environ | {'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path])},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        if command[1] == '-m':
            assert shlex.join(train) in done.stdout  # the next command is the page's
    curves = tmp_path / show[-1]
    assert curves.read_bytes()[:4] == b'\x89PNG'
    run = curves.parents[1]
    lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    scored = [line['step'] for line in lines if 'eval/val_loss' in line]
    assert scored[:2] == [0, 2]
    report = json.loads((tmp_path / 'DATA' / 'report.json').read_text())
    results = json.loads((run / 'results.json').read_text())
    assert results['n_eval'] == report['held_out']['validation'] > 0
