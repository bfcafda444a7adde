"""python -m pgs.evaluate, from files to metrics."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image
from programs import load_program, run_program

from input_pipeline import eval_sets
from input_pipeline.webdataset import count_samples, write_eval_set
from pgs import inference
from pgs.errors import UserError
from pgs.evaluate import results_file, run
from pgs.evaluate.data import Task
from pgs.inference.clip import encoded

TASKS = (
    'zeroshot/digits',
    'linear_probe/digits',
    'zeroshot/openmoji_names',
    'zeroshot/openmoji_tones',
    'retrieval/openmoji_pairs',
    'sugar_crepe/swap_att',
)


load_program('pgs.evaluate.__main__')


def call(*arguments):
    """Runs the command in this process, in which JAX is already initialised."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('pgs.utils.distributed.start', lambda: None)
        run_program('pgs.evaluate.__main__', *arguments)


@pytest.fixture(scope='module')
def scored(untrained_clip, small_data, tmp_path_factory):
    out = tmp_path_factory.mktemp('scored') / 'results.json'
    call(
        f'--checkpoint={untrained_clip}',
        f'--data_root={small_data}',
        f'--out={out}',
        f'--tasks={",".join(TASKS)},zeroshot/food101',
        '--name=random',
    )
    return out


def test_every_task_gives_its_metrics(scored):
    results = json.loads(scored.read_text())
    assert results['name'] == 'random'
    assert list(results['tasks']) == list(TASKS)
    assert 'food101' in results['missing']['zeroshot/food101']
    assert results['failed'] == {}
    digits = results['tasks']['zeroshot/digits']
    assert digits['n'] == 60
    assert set(digits['metrics']) == {'acc1', 'acc5', 'mean_per_class_recall'}
    probe = results['tasks']['linear_probe/digits']['metrics']
    assert probe['weight_decay'] == 0.0
    pairs = results['tasks']['retrieval/openmoji_pairs']
    assert (pairs['n'], pairs['n_texts'], pairs['n_cut']) == (24, 60, 0)
    for entry in results['tasks'].values():
        assert all(0 <= value <= 1 for value in entry['metrics'].values())


def test_figures_are_those_of_the_definition(scored, untrained_clip, small_data):
    """Recomputed with one image and one prompt at a time: no batches, padding or caches."""
    clip = inference.load_clip(untrained_clip)
    data = eval_sets.open_tars(small_data, 'digits', 'test')
    weights = []
    for name in data.classnames:
        texts = [template.replace('{c}', name) for template in data.templates]
        mean = np.mean([inference.embed_texts(clip, [text])[0] for text in texts], axis=0)
        weights.append(mean / np.linalg.norm(mean))
    hits = []
    for _, image, label in data.samples():
        ((images, _),) = eval_sets.image_batches([('', image, 0)], image_size=32, batch_size=1)
        hits.append(np.argmax(clip.images(images)[0] @ np.transpose(weights)) == label)
    acc1 = json.loads(scored.read_text())['tasks']['zeroshot/digits']['metrics']['acc1']
    assert acc1 == pytest.approx(np.mean(hits), abs=1e-9)


def test_the_same_command_again_scores_what_is_left(scored, untrained_clip, small_data, capsys):
    results = json.loads(scored.read_text())
    kept = results['tasks'].pop('zeroshot/digits')
    again = scored.with_name('again.json')
    again.write_text(json.dumps(results))
    call(
        f'--checkpoint={untrained_clip}',
        f'--data_root={small_data}',
        f'--out={again}',
        f'--tasks={",".join(TASKS)}',
    )
    assert '5 of 6 tasks are done' in capsys.readouterr().out
    tasks = json.loads(again.read_text())['tasks']
    assert tasks['zeroshot/digits']['metrics'] == kept['metrics']
    assert tasks['retrieval/openmoji_pairs'] == results['tasks']['retrieval/openmoji_pairs']


def refused(*arguments) -> str:
    """The message that the command ends with; cli.run prints it and exits with status 1."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


def test_results_of_another_model_are_not_mixed(scored, small_data, tmp_path):
    results = json.loads(scored.read_text()) | {'weights': 'others'}
    (tmp_path / 'r.json').write_text(json.dumps(results))
    clip = results['checkpoint']
    arguments = f'--checkpoint={clip}', f'--data_root={small_data}', '--tasks=zeroshot/digits'
    assert 'other weights' in refused(*arguments, f'--out={tmp_path / "r.json"}')
    (tmp_path / 'x.json').write_text('{}')
    assert 'not a results file' in refused(*arguments, f'--out={tmp_path / "x.json"}')


def test_masks_are_recorded_and_not_mixed(scored, untrained_clip, small_data, tmp_path):
    arguments = [
        f'--checkpoint={untrained_clip}',
        f'--data_root={small_data}',
        '--tasks=linear_probe/digits',
    ]
    whole = json.loads(scored.read_text())
    assert 'masking' not in whole
    message = refused(*arguments, f'--out={scored}', '--masking=random')
    assert 'with other masks of the images (--masking)' in message
    out = tmp_path / 'results.json'
    shutil.copytree(scored.with_suffix('.features'), out.with_suffix('.features'))
    call(*arguments, f'--out={out}', '--masking=random')
    masked = json.loads(out.read_text())
    assert masked['masking'] == {'strategy': 'random', 'mask_ratio': 0.5}
    assert masked['name'] == 'random (masked by random 0.5)'
    probes = [results['tasks']['linear_probe/digits'] for results in (masked, whole)]
    assert probes[0]['metrics'] != probes[1]['metrics']
    caches = [path.name for path in out.with_suffix('.features').iterdir()]
    assert len(caches) == 2 * len({name.split('-')[1] for name in caches})
    assert 'with other masks' in refused(*arguments, f'--out={out}', '--masking=cluster')
    assert 'with other masks' in refused(*arguments, f'--out={out}')
    call(*arguments, f'--out={out}', '--masking=random')  # nothing is left to do
    assert json.loads(out.read_text()) == masked


def test_mistakes_get_one_line(untrained_clip, tmp_path):
    assert 'give --checkpoint' in refused('--tasks=paper')
    arguments = f'--checkpoint={untrained_clip}', f'--data_root={tmp_path}'
    assert 'did you mean classification' in refused(*arguments, '--tasks=clasification')
    assert 'did you mean zeroshot/food101?' in refused(*arguments, '--tasks=zeroshot/food11')
    assert 'did you mean random?' in refused(*arguments, '--masking=randon')
    assert 'needs the folder of a run' in refused(*arguments, '--masking=trained')
    out = tmp_path / 'r.json'
    message = refused(*arguments, '--tasks=zeroshot/food101', f'--out={out}')
    assert 'no task can run' in message
    assert 'food101, with test/' in message
    assert not out.exists()


def test_a_damaged_set_fails_alone(untrained_clip, small_data, tmp_path, capsys):
    root = tmp_path / 'data'
    shutil.copytree(small_data, root)
    tar = root / 'openmoji_names' / 'test' / '0.tar'
    tar.write_bytes(tar.read_bytes()[:3000])
    (root / 'openmoji_pairs' / 'test' / 'nshards.txt').unlink()
    out = tmp_path / 'r.json'
    message = refused(
        f'--checkpoint={untrained_clip}',
        f'--data_root={root}',
        f'--out={out}',
        '--tasks=zeroshot/openmoji_names,retrieval/openmoji_pairs,zeroshot/openmoji_tones',
    )
    assert '2 task(s) failed' in message
    printed = capsys.readouterr().out
    assert '0.tar is cut or corrupt' in printed
    assert 'nshards.txt' in printed
    assert list(json.loads(out.read_text())['tasks']) == ['zeroshot/openmoji_tones']


def opened(root, task):
    opened_task = run.open_task(task, root)
    assert isinstance(opened_task, Task)
    return opened_task


def scores(clip, task):
    return run.run_task(task, clip, {}, lambda split, compute: compute())


def test_sets_of_the_same_classes_embed_their_prompts_once(untrained_clip, small_data):
    clip, calls = inference.load_clip(untrained_clip), []

    def counted(params, tokens):
        calls.append(len(tokens))
        return clip.text_step(params, tokens)

    watched, class_weights = dataclasses.replace(clip, text_step=counted), {}
    task = opened(small_data, 'zeroshot/digits')
    for _ in range(2):
        run.run_task(task, watched, class_weights, lambda split, compute: compute())
    assert calls == [clip.batch_size]  # ten classes in two templates: one padded batch


def test_a_file_that_is_not_an_image_is_named(untrained_clip, small_data, tmp_path):
    shutil.copytree(small_data / 'sugar_crepe', tmp_path / 'sugar_crepe')
    victim = sorted((tmp_path / 'sugar_crepe' / 'val2017').iterdir())[0]
    victim.write_bytes(b'')
    clip = inference.load_clip(untrained_clip)
    with pytest.raises(UserError, match=victim.name):
        scores(clip, opened(tmp_path, 'sugar_crepe/swap_att'))


def test_features_that_are_not_finite_are_counted(untrained_clip, small_data):
    clip = inference.load_clip(untrained_clip)
    tower = clip.params['image_tower']
    broken = clip.params | {'image_tower': {**tower, 'projection': tower['projection'] * np.nan}}
    with pytest.raises(UserError, match=r'not finite for \d+ of \d+ images'):
        scores(clip.with_params(broken), opened(small_data, 'zeroshot/digits'))


def test_long_captions_are_cut_and_counted(untrained_clip, tmp_path):
    image = small_image()
    pairs = [(image, ['a ' * 100, 'short']), (image, ['also short'])]
    write_eval_set(tmp_path / 'long', 'test', pairs, kind='retrieval')
    metrics = scores(inference.load_clip(untrained_clip), opened(tmp_path, 'retrieval/long'))
    assert (metrics['n_cut'], metrics['n_texts']) == (1, 3)


def small_image() -> bytes:
    return encoded(Image.new('RGB', (8, 8)))[1]


def test_the_kind_of_a_set_must_fit_the_protocol(small_data):
    with pytest.raises(
        UserError, match='is a retrieval set, not a classification or multilabel set'
    ):
        run.open_task('zeroshot/openmoji_pairs', small_data)
    assert 'a linear probe trains on it' in run.open_task('linear_probe/openmoji_names', small_data)


def test_a_set_of_tfds(untrained_clip, tmp_path):
    """A set of the table, prepared by TFDS with three images, without tars."""
    features = tfds.features.FeaturesDict(
        {
            'image': tfds.features.Image(shape=(None, None, 3)),
            'label': tfds.features.ClassLabel(names=['zig_zagged', 'plain']),
        }
    )
    images = np.stack([np.full((9, 9, 3), 60 * i, np.uint8) for i in range(3)])
    examples = tf.data.Dataset.from_tensor_slices({'image': images, 'label': [0, 1, 0]})
    tfds.dataset_builders.store_as_tfds_dataset(
        name='dtd',
        version='3.0.1',
        data_dir=str(tmp_path),
        split_datasets={'test': examples},
        features=features,
    )
    task = opened(tmp_path, 'zeroshot/dtd')
    assert task.data.classnames == ['zig zagged', 'plain']
    assert 'one template' in task.data.note
    metrics = scores(inference.load_clip(untrained_clip), task)
    assert metrics['n'] == 3


def test_a_row_is_named_after_its_checkpoint():
    assert results_file.row_name('runs/pgs-0.3/') == 'pgs-0.3'
    assert results_file.row_name('a/clip-pgs-0.3.pt') == 'clip-pgs-0.3'
    assert results_file.row_name('a/b.pt', 'pgs 0.5') == 'b (masked by pgs 0.5)'


def test_a_place_that_cannot_be_written_is_known_before_the_work(
    untrained_clip, small_data, tmp_path, capsys
):
    (tmp_path / 'file').write_text('')
    message = refused(
        f'--checkpoint={untrained_clip}',
        f'--data_root={small_data}',
        '--tasks=zeroshot/digits',
        f'--out={tmp_path / "file" / "r.json"}',
    )
    assert 'cannot write --out' in message
    assert '[1/1]' not in capsys.readouterr().out


def test_the_progress_bar_knows_the_number_of_samples(small_data, tmp_path):
    data = eval_sets.open_tars(small_data, 'openmoji_pairs', 'test')
    assert data.count == len(list(data.samples())) == 24
    many = write_eval_set(
        tmp_path / 'many',
        'test',
        [(small_image(), i % 2) for i in range(8)],
        kind='classification',
        classnames='ab',
        templates=['{c}'],
        shard_size=3,
    )
    assert len(many.shards) == 3
    assert count_samples(many) == 8
