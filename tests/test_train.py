"""The main job end to end: what it writes, and that a break changes nothing."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_wandb
from conftest import shrunk_quickstart, sigterm_at_saves
from PIL import Image

from input_pipeline.sources import captions_of
from pgs import build as build_module
from pgs.errors import Stopped, UserError
from pgs.evaluate.retrieval import pair_scores
from pgs.inference import embed_images, embed_texts, load_clip
from pgs.run import opening, starved, summary
from pgs.run.data import open_data
from pgs.run.metrics import MetricLog, read_metrics
from pgs.train import train

ROOT = Path(__file__).parent.parent
RESULT_KEYS = [
    'step',
    'loss',
    'pairs_per_second',
    'mask_ratio_mean',
    'val_loss',
    'text_recall@1',
    'text_recall@5',
    'image_recall@1',
    'image_recall@5',
    'chance@1',
    'chance@5',
    'n_eval',
    'object_retention',
    'object_retention_masked',
    'object_retention_images',
    'starved',
]
MASKED_KEYS = [
    'masked/val_loss',
    'masked/text_recall@1',
    'masked/text_recall@5',
    'masked/image_recall@1',
    'masked/image_recall@5',
]


def comparable(workdir):
    """metrics.jsonl without what a clock measured."""
    return [
        {k: v for k, v in r.items() if k != 'pairs_per_second'}
        for r in read_metrics(workdir / 'metrics.jsonl')
    ]


@pytest.fixture(scope='module')
def wandb(tmp_path_factory):
    """A stand-in of the library, of which whole_run opens a page."""
    with pytest.MonkeyPatch.context() as patch:
        yield small_wandb.install(patch, tmp_path_factory.mktemp('pages'))


@pytest.fixture(scope='module')
def whole_run(tmp_path_factory, wandb):
    config = shrunk_quickstart(total_steps=30)
    config.eval_masked = True
    workdir = tmp_path_factory.mktemp('runs') / 'whole'
    tracked = config.copy_and_resolve_references()
    tracked.tracker = 'wandb'
    return config, workdir, train(tracked, workdir)


def test_writes_all_that_the_readme_promises(whole_run):
    config, workdir, results = whole_run
    assert list(results) == [*RESULT_KEYS[:-4], *MASKED_KEYS, *RESULT_KEYS[-4:]]
    assert json.loads((workdir / 'results.json').read_text()) == results
    assert results['step'] == 30
    assert results['n_eval'] == 424
    assert results['chance@5'] == pytest.approx(5 / 424)
    assert 0.3 <= results['mask_ratio_mean'] <= 0.5
    assert results['object_retention'] > 0.6
    assert results['object_retention_images'] == 'held-out images'  # they have exact masks
    assert json.loads((workdir / 'config.json').read_text())['masking'] == config.masking.to_dict()
    assert 0.0 <= results['starved'] < 0.5
    for name in ('masks.png', 'starvation.png', 'curves.png'):
        assert (workdir / 'figures' / name).read_bytes()[:4] == b'\x89PNG'
    assert (workdir / 'report.html').read_text().count('data:image/png') == 2
    assert sorted(int(p.name) for p in (workdir / 'checkpoints').iterdir()) == [28, 30]
    assert list(workdir.glob('events.out.tfevents.*'))
    records = read_metrics(workdir / 'metrics.jsonl')
    assert [r['step'] for r in records] == [0, *range(1, 31), 30]
    assert 'eval/text_recall@5' in records[0]
    assert records[-1]['eval/masked/val_loss'] == results['masked/val_loss'] != results['val_loss']
    assert 'eval/masked/image_recall@5' in records[0]
    assert records[1]['loss'] == pytest.approx(np.log(16), rel=0.7)


def test_the_tracker_gets_what_a_run_writes(whole_run, wandb):
    _, workdir, results = whole_run
    page = wandb.pages[0]
    assert page.options['config']['tracker'] == 'wandb'
    *lines, figures = page.lines
    assert lines == read_metrics(workdir / 'metrics.jsonl')
    assert figures['step'] == 30
    for name in ('masks', 'curves'):
        with Image.open(workdir / 'figures' / f'{name}.png') as image:
            assert figures[f'figures/{name}'] == image.size
    assert page.summary == {f'results/{name}': value for name, value in results.items()}
    assert page.saved == ['results.json']
    assert page.exit_code == 0


def test_a_crash_and_a_resumption_give_bit_identical_metrics(whole_run, tmp_path, monkeypatch):
    config, workdir, results = whole_run
    real_write = MetricLog.write

    def crash_at_five(self, step, scalars):
        if step == 5:
            raise RuntimeError('power cut')
        real_write(self, step, scalars)

    with monkeypatch.context() as patch:
        patch.setattr(MetricLog, 'write', crash_at_five)
        with pytest.raises(RuntimeError, match='power cut'):
            train(config, tmp_path / 'broken')
    assert max(r['step'] for r in read_metrics(tmp_path / 'broken' / 'metrics.jsonl')) == 4
    monkeypatch.setattr(summary, 'draw_starvation', starved.draw_starvation)  # as whole_run had it
    resumed = train(config, tmp_path / 'broken')
    assert comparable(tmp_path / 'broken') == comparable(workdir)
    assert {k: v for k, v in resumed.items() if k != 'pairs_per_second'} == {
        k: v for k, v in results.items() if k != 'pairs_per_second'
    }


def test_evaluations_in_training_change_nothing_else(whole_run, small_data, tmp_path):
    config, workdir, _ = whole_run
    config = config.copy_and_resolve_references()
    config.evals = ('held_out', 'zeroshot/digits', 'retrieval/openmoji_pairs')
    config.eval_every, config.eval_data_root = 10, str(small_data)
    train(config, tmp_path / 'scored')
    records = read_metrics(tmp_path / 'scored' / 'metrics.jsonl')
    scored = [r for r in records if 'eval/val_loss' in r]
    assert [r['step'] for r in scored] == [0, 10, 20, 30]
    for record in scored[1:]:
        assert {'eval/text_recall@5', 'eval/zeroshot/digits/acc1'} <= set(record)
        assert 'eval/masked/text_recall@5' in record
        assert 'eval/retrieval/openmoji_pairs/text_retrieval_recall@5' in record
    assert scored[3]['eval/val_loss'] < scored[1]['eval/val_loss'] < scored[0]['eval/val_loss']
    losses = [r['loss'] for r in records if 'loss' in r]
    assert losses == [r['loss'] for r in comparable(workdir) if 'loss' in r]


@pytest.mark.parametrize(
    ('evals', 'words'),
    [
        (('zeroshot/food101',), 'food101 is absent'),
        (('zeroshot',), 'no task'),
        (('zeroshot/openmoji_pairs',), 'is a retrieval set'),
    ],
)
def test_evaluations_that_cannot_run_stop_the_start(
    tiny_config, small_data, tmp_path, evals, words
):
    tiny_config.evals, tiny_config.eval_data_root = evals, str(small_data)
    with pytest.raises(UserError, match=words):
        train(tiny_config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_an_interrupt_saves_and_stops(whole_run, tmp_path, capsys, monkeypatch):
    config, workdir, _ = whole_run
    stopped = pytest.raises(Stopped, match=r'step 2 of 30, checkpoint saved')
    with sigterm_at_saves(monkeypatch, 2), stopped:
        train(config, tmp_path / 'stopped')
    assert (tmp_path / 'stopped' / 'checkpoints' / '2').is_dir()
    assert not (tmp_path / 'stopped' / 'results.json').exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    train(config, tmp_path / 'stopped')
    assert 'Resumes at step 2 of 30' in capsys.readouterr().out
    assert comparable(tmp_path / 'stopped') == comparable(workdir)


def test_an_unmasked_end_is_exact_on_resume(tiny_config, tmp_path, monkeypatch, capsys):
    """Masks and captions of 8 tokens for three steps, then whole ones; it stops before and after that."""
    tiny_config.masking.until = 0.5
    tiny_config.optimizer.update(tail_rate=5e-4, tail_warmup_steps=1)
    tiny_config.text_masking.update(strategy='block', context_length=8)
    train(tiny_config, tmp_path / 'whole')
    assert 'From step 4 on images and captions are whole' in capsys.readouterr().out
    expected = comparable(tmp_path / 'whole')
    masked = [r['mask_ratio'] for r in expected if 'loss' in r]
    assert all(0.3 <= ratio <= 0.5 for ratio in masked[:3])
    assert masked[3:] == [0.0] * 3

    with sigterm_at_saves(monkeypatch, 2, 4):
        for stopped in (2, 4):
            with pytest.raises(Stopped, match=f'step {stopped} of 6'):
                train(tiny_config, tmp_path / 'broken')
    train(tiny_config, tmp_path / 'broken')
    assert comparable(tmp_path / 'broken') == expected


def test_a_finished_run_is_scored_again_not_trained(whole_run, capsys):
    config, workdir, results = whole_run
    before = comparable(workdir)
    again = train(config, workdir)
    assert 'Compiled' not in capsys.readouterr().out
    assert again['text_recall@5'] == results['text_recall@5']
    assert comparable(workdir)[:31] == before[:31]


def test_masked_scores_are_those_of_the_run_scored_as_trained(whole_run):
    """results.json against the folder's weights, loaded with masking='trained'."""
    config, workdir, results = whole_run
    clip = load_clip(workdir, masking='trained')
    source = open_data(config).held_out
    records = [source[i] for i in range(len(source))]
    images = embed_images(clip, [Image.open(io.BytesIO(r['image'])) for r in records])
    texts = embed_texts(clip, [captions_of(r)[0] for r in records])
    scores = pair_scores(images, texts, float(np.exp(clip.params['logit_scale'])))
    assert results['masked/val_loss'] == pytest.approx(scores['val_loss'], abs=1e-4)
    for key in ('text_recall@5', 'image_recall@5'):
        assert results[f'masked/{key}'] == pytest.approx(scores[key], abs=0.01)


def test_masked_scores_are_off_by_default(tiny_config, tmp_path):
    assert list(train(tiny_config, tmp_path)) == RESULT_KEYS
    assert not any('masked/' in k for r in read_metrics(tmp_path / 'metrics.jsonl') for k in r)


def test_a_run_without_masks_has_no_masked_scores(tiny_config, tmp_path, capsys):
    tiny_config.masking.strategy = 'none'
    tiny_config.evals, tiny_config.eval_every = ('held_out',), 3
    tiny_config.eval_masked = True
    results = train(tiny_config, tmp_path)
    assert list(results) == RESULT_KEYS
    assert not any('masked/' in k for r in read_metrics(tmp_path / 'metrics.jsonl') for k in r)
    out = capsys.readouterr().out
    assert 'scored at step 3: val_loss' in out
    assert 'masked/' not in out
    assert load_clip(tmp_path, masking='trained').image_size == 32
    assert 'masks nothing' in capsys.readouterr().out


def test_another_config_in_the_folder_is_refused(whole_run):
    config, workdir, _ = whole_run
    other = config.copy_and_resolve_references()
    other.masking.strategy = 'random'
    before = sorted(workdir.rglob('*'))
    with pytest.raises(UserError, match=r'masking\.strategy: pgs there, random here'):
        train(other, workdir)
    assert sorted(workdir.rglob('*')) == before


@pytest.mark.parametrize(
    ('path', 'value', 'words'),
    [
        ('masking.strategy', 'pqs', "did you mean 'pgs'"),
        ('model.image.image_size', 65, 'image_size=65'),
        ('masking.min_ratio', 0.7, 'min_ratio=0.7'),
        ('masking.max_ratio', 1.0, 'max_ratio=1.0'),
        ('batch_size', 10, 'batch_size=10 does not split over 8 devices'),
        ('mesh.fsdp', 3, 'mesh.fsdp=3 does not fit 8 devices'),
        ('microbatches', 3, 'microbatches=3 does not divide the 2 pairs'),
        ('profile_steps', -1, 'profile_steps=-1'),
        ('optimizer.mu_dtype', 'int8', "mu_dtype='int8'"),
        ('masking.long_share', 1.5, 'long_share=1.5'),
        ('masking.budget_group', 0, 'budget_group=0'),
        ('masking.until', 1.5, 'masking.until=1.5 must be from 0 to 1'),
        ('masking.until', -0.1, 'masking.until=-0.1'),
        ('masking.whole_share', 2.0, 'whole_share=2.0 must be from 0 to 1'),
        ('masking.whole_share', 0.01, 'whole_share=0.01 is no image of a group of 16'),
        ('optimizer.tail_rate', -1.0, 'tail_rate=-1.0'),
        ('batch_size', 0, 'batch_size=0'),
        ('total_steps', 0, 'total_steps=0'),
        ('log_every', 0, 'log_every=0'),
        ('model.dtype', 'float8', "'float8'"),
        ('model.remat', 'some', "'some'"),
        ('data.crop_scale', (0.5, 1.5), 'crop_scale'),
        ('data.crop_scale', (1e-7, 2e-7), 'crop_scale=(1e-07, 2e-07) must be 0.01 <='),
        ('optimizer.warmup_steps', -1, 'warmup_steps=-1'),
        ('optimizer.peak_learning_rate', float('nan'), 'peak_learning_rate=nan'),
        ('optimizer.beta1', 2.0, 'beta1=2.0'),
        ('masking.edge_weight', float('inf'), 'edge_weight=inf'),
        ('model.text.vocab_size', 10, 'vocab_size=10'),
        ('model.text.layers', 0, 'layers=0'),
        ('seed', 2**40, 'seed=1099511627776'),
        ('data.name', 'laion', "'laion'"),
        ('data.train_split', 'test', "no split 'test'"),
        ('data.mixture', (('openmoji', '', 99.0), ('openmoji', '', 1.0)), 'weight 1.0'),
        ('data.mixture', (('openmoji', ''),), 'must be (name, dir, weight above 0)'),
        ('data.dir', 's3://bucket', 'only gs://BUCKET/FOLDER is supported'),
        ('data.shuffle', 'windows', "did you mean 'window'?"),
    ],
)
def test_bad_config_is_refused_before_anything_is_written(
    tiny_config, tmp_path, path, value, words
):
    tiny_config.update_from_flattened_dict({path: value})
    if path == 'data.dir':
        tiny_config.data.name = 'pairs'
    with pytest.raises(UserError) as error:
        train(tiny_config, tmp_path / 'run')
    assert words in str(error.value)
    assert not (tmp_path / 'run').exists()


def test_a_profile_is_traced(tiny_config, tmp_path, capsys):
    """Two of six steps, in the folder where TensorBoard's profiler looks."""
    tiny_config.profile_steps = 2
    train(tiny_config, tmp_path)
    assert [p.stat().st_size > 10_000 for p in (tmp_path / 'profile').rglob('*.xplane.pb')] == [
        True
    ]
    assert 'Traced 2 step(s) into' in capsys.readouterr().out


def test_a_diverged_run_says_so(tiny_config, tmp_path):
    tiny_config.optimizer.update(peak_learning_rate=1e30, warmup_steps=0)
    with pytest.raises(UserError, match=r'diverged; lower config\.optimizer\.peak_learning_rate'):
        train(tiny_config, tmp_path)


def test_steps_follow_from_the_size_of_the_data(tiny_config, tmp_path, monkeypatch):
    """2678 steps an epoch for the paper's 10,968,539 pairs at batch 4096."""
    seen = []

    def note(config, *, total_steps, platform):
        seen.append(total_steps)
        if total_steps != 1:  # 1 is the check beforehand, when the size is not known yet
            raise ZeroDivisionError
        return note.original(config, total_steps=total_steps, platform=platform)

    note.original = build_module.build
    monkeypatch.setattr(build_module, 'build', note)
    monkeypatch.setattr(opening, 'build', note)
    tiny_config.total_steps = None
    tiny_config.epochs = 3
    with pytest.raises(ZeroDivisionError):
        train(tiny_config, tmp_path / 'run')
    assert seen == [1, 3 * 221]  # ceil(3529 / 16)
    assert -(-10_968_539 // 4096) == 2678


@pytest.mark.slow
def test_main_stops_on_sigterm_and_goes_on(tmp_path):
    command = [
        sys.executable,
        'main.py',
        f'--workdir={tmp_path / "run"}',
        '--config.data.name=openmoji',
        '--config.batch_size=8',
        '--config.total_steps=100',
        '--config.log_every=1',
        '--config.model.image.layers=1',
        '--config.model.text.layers=1',
        '--config.model.image.width=32',
        '--config.model.text.width=32',
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith('step'):
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stdout.read()
    assert process.wait(60) == 130
    assert 'checkpoint saved' in rest
    saved = max(int(p.name) for p in (tmp_path / 'run' / 'checkpoints').iterdir())
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f'Resumes at step {saved} of 100' in done.stdout
    assert done.stdout.count('\nstep ') == 100 - saved
    assert 'results.json' in done.stdout
    assert done.stderr == ''  # libraries greet nobody


@pytest.mark.slow
def test_main_exits_with_one_line(tmp_path):
    for program, flags in (
        (['main.py'], ['--workdir=/proc/run', '--config.data.name=openmoji']),
        (['main.py'], ['--config.masking.strategy=pqs']),
        (['main.py'], ['--config.data.crop_scale=0.5', f'--workdir={tmp_path / "run"}']),
        (['-m', 'pgs.compile'], ['--config.optimizer.beta1=2']),
    ):
        done = subprocess.run(
            [sys.executable, *program, *flags],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.startswith('error: ')
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / 'run').exists()
