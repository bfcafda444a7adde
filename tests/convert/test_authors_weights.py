"""The authors' weights, from a checkpoint of OpenCLIP's training to the paper's tables.

Their files cannot be fetched by a test, so one of the same shape is built. Needs
requirements-torch.txt; without it, these tests are skipped.
"""

import argparse
import json

import numpy as np
import pytest

torch = pytest.importorskip('torch')

from programs import load_program, run_program  # noqa: E402
from small_clip import same_trees  # noqa: E402

from pgs.convert.load import read  # noqa: E402
from pgs.convert.open_clip import from_params  # noqa: E402
from pgs.convert.tensors import read_tensors  # noqa: E402
from pgs.errors import UserError  # noqa: E402
from pgs.report.run import report  # noqa: E402

load_program('pgs.convert.__main__')
load_program('pgs.evaluate.__main__')


def training_checkpoint(params, arguments) -> dict:
    """What OpenCLIP's training saves after an epoch of a model under DistributedDataParallel."""
    weights = {
        f'module.{name}': torch.tensor(np.array(array))
        for name, array in from_params(params).items()
    }
    # As AdamW saves it. Making one imports Triton, which crashes in a process that has loaded JAX.
    moments = {'step': torch.tensor(1.0), 'exp_avg': torch.ones(2), 'exp_avg_sq': torch.ones(2)}
    group = {'lr': 1e-3, 'betas': (0.9, 0.98), 'weight_decay': 0.2, 'amsgrad': False, 'params': [0]}
    return {
        'epoch': 32,
        'name': '2024_10_01-model_ViT-B-16-lr_0.001',
        'state_dict': weights,
        'optimizer': {'state': {0: moments}, 'param_groups': [group]},
        'scaler': {'scale': 65536.0, 'growth_factor': 2.0, '_growth_tracker': 12},
        'args': arguments,
    }


ARGUMENTS = argparse.Namespace(
    model='ViT-B-16', lr=1e-3, betas=(0.9, 0.98), min_mask_ratio=0.3, use_ed=True, device='cuda:0'
)


@pytest.fixture
def authors(untrained_clip, tmp_path):
    """A file with the name and the shape of theirs, and the small model that is in it."""
    small = read(untrained_clip)
    path = tmp_path / 'clip-pgs-0.3.pt'
    torch.save(training_checkpoint(small.params, ARGUMENTS), path)
    return path, small


def test_from_their_file_to_the_tables_of_the_paper(
    authors, untrained_clip, small_data, tmp_path, monkeypatch
):
    monkeypatch.setattr('pgs.utils.distributed.start', lambda: None)  # JAX has started already
    path, small = authors
    card = untrained_clip / 'open_clip_config.json'  # theirs is found by its shapes
    run_program(
        'pgs.convert.__main__',
        f'--checkpoint={path}',
        f'--model_config={card}',
        '--to=orbax',
        f'--out={tmp_path / "clip-pgs-0.3"}',
    )
    same_trees(read(tmp_path / 'clip-pgs-0.3').params, small.params)

    out, sets = tmp_path / 'results.json', tmp_path / 'sets'
    sets.mkdir()
    (sets / 'stl10').symlink_to(small_data / 'digits')  # a set of the paper's tables
    run_program(
        'pgs.evaluate.__main__',
        f'--checkpoint={tmp_path / "clip-pgs-0.3"}',
        '--tasks=zeroshot/stl10',
        f'--data_root={sets}',
        f'--out={out}',
        '--authors_weights',
    )
    results = json.loads(out.read_text())
    assert results['authors_weights'] is True
    share = 100 * results['tasks']['zeroshot/stl10']['metrics']['acc1']
    text = report([str(out)], None, None, None)
    (row,) = [
        line
        for line in text.splitlines()
        if line.startswith("clip-pgs-0.3 (authors'") and f' {share:.1f} ' in line
    ]
    published, ours = text.index('PGS-0.3 '), text.index(row)
    assert published < ours


def test_the_arguments_of_the_training_are_left_out_without_running_code(authors, tmp_path):
    path, small = authors
    weights = torch.load(path, weights_only=False)  # our own file
    assert weights['args'] == ARGUMENTS
    assert read_flat(path) == {n: a.shape for n, a in from_params(small.params).items()}

    class Hostile:
        def __reduce__(self):
            return (tmp_path.joinpath('hacked').mkdir, ())

    hidden = tmp_path / 'hidden.pt'
    torch.save(training_checkpoint(small.params, argparse.Namespace(transform=Hostile())), hidden)
    with pytest.raises(UserError, match=r'hidden\.pt: it holds pickled code'):
        read_flat(hidden)
    assert not (tmp_path / 'hacked').exists()
    with pytest.raises(Exception, match='Weights only load failed'):
        torch.load(path, weights_only=True)  # the permission does not outlast the reading


def read_flat(path) -> dict:
    """Names and shapes of a file's tensors."""
    return {name: array.shape for name, array in read_tensors(path).items()}
