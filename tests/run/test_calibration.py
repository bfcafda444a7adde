"""A run that sets the mask's threshold from its training images."""

import json

import pytest
from conftest import shrunk_quickstart, sigterm_at_saves

import pgs.run.calibration as calibration_module
from pgs.build import check_config
from pgs.convert import load_model
from pgs.errors import Stopped, UserError
from pgs.inference.masking import find_mask
from pgs.run import opening
from pgs.run.metrics import read_metrics
from pgs.train import train


def calibrated_config(**masking):
    config = shrunk_quickstart(total_steps=4)
    config.masking.update({'strategy': 'cluster', 'cluster_target': 0.6} | masking)
    return config


def losses(workdir):
    return [
        (r['loss'], r['mask_ratio']) for r in read_metrics(workdir / 'metrics.jsonl') if 'loss' in r
    ]


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('runs') / 'calibrated'
    with pytest.MonkeyPatch.context() as patch:
        built = []
        real_build = opening.build

        def build(config, **arguments):
            built.append(config.masking.cluster_threshold)
            return real_build(config, **arguments)

        patch.setattr(opening, 'build', build)
        train(calibrated_config(), workdir)
    return workdir, built


def test_the_threshold_is_kept_with_the_run(run):
    workdir, built = run
    masking = json.loads((workdir / 'config.json').read_text())['masking']
    assert 0.0 < masking['cluster_threshold'] < 1.0
    assert masking['cluster_threshold'] != 0.5
    assert built == [masking['cluster_threshold']]
    assert losses(workdir)[0][1] == pytest.approx(0.6, abs=0.1)  # 16 images, of progress 0
    mask = find_mask('trained', workdir, load_model(workdir).model)
    assert mask.settings['cluster_threshold'] == masking['cluster_threshold']


def test_a_resumption_is_exact_and_does_not_calibrate_again(run, tmp_path, capsys, monkeypatch):
    workdir, _ = run
    with sigterm_at_saves(monkeypatch, 2), pytest.raises(Stopped, match='step 2 of 4'):
        train(calibrated_config(), tmp_path / 'run')
    out = capsys.readouterr().out
    assert out.count('Calibrated on 1024 training images: masking.cluster_threshold=0.') == 1
    assert ' for a mean masked fraction of 0.6' in out
    monkeypatch.setattr(calibration_module, 'calibrate', None)
    train(calibrated_config(), tmp_path / 'run')
    out = capsys.readouterr().out
    assert 'Resumes at step 2 of 4' in out
    assert 'Calibrated' not in out
    assert losses(tmp_path / 'run') == losses(workdir)
    with pytest.raises(UserError, match=r'cluster_target: 0\.6 there, 0\.7 here'):
        train(calibrated_config(cluster_target=0.7), tmp_path / 'run')


@pytest.mark.parametrize(
    ('masking', 'words'),
    [
        (
            {'cluster_target': 0.3},
            r'masking\.cluster_target=0\.3, .* above masking\.min_ratio=0\.3',
        ),
        ({'cluster_target': 1.0}, r'masking\.cluster_target=1\.0 must be from 0 to below 1'),
        ({'cluster_target': -0.5}, r'masking\.cluster_target=-0\.5 must be .* take 0'),
        (
            {'cluster_target': '0.5'},
            r"config\.masking\.cluster_target='0\.5' must be a number",
        ),
        ({'cluster_target': 0.999}, r'first 1024 training images: no masking\.cluster_threshold'),
    ],
)
def test_targets_without_a_threshold_are_refused(tmp_path, masking, words):
    config = calibrated_config()
    with config.ignore_type():
        config.masking.update(masking)
    with pytest.raises(UserError, match=words):
        train(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_only_this_strategy_is_calibrated(tiny_config, tmp_path):
    tiny_config.masking.cluster_target = 0.2  # below min_ratio: an option of another strategy
    check_config(tiny_config, devices=1, platform='cpu')
    assert calibration_module.with_calibration(tiny_config, None, tmp_path) is tiny_config
