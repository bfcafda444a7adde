"""The model card of exported weights, and weights in several files."""

import json
import shutil

import jax
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file
from small_clip import same_trees, small_checkpoint

from configs import base
from pgs.convert.card import Facts, read_facts, write_card
from pgs.convert.export import export
from pgs.convert.load import load_model, read
from pgs.convert.parameters import fingerprint
from pgs.errors import UserError
from pgs.utils.files import write_json


@pytest.fixture(scope='module')
def small():
    return small_checkpoint()


def front_matter(card: str) -> dict:
    empty, head, _ = card.split('---\n', 2)
    assert empty == ''
    return yaml.safe_load(head)


@pytest.mark.parametrize(('kind', 'library'), [('open_clip', 'open_clip'), ('hf', 'transformers')])
def test_the_front_matter_names_library_task_and_licence(small, tmp_path, kind, library):
    assert 'README.md' in export(small, kind, tmp_path / 'a-clip', Facts(license='cc-by-4.0'))
    card = (tmp_path / 'a-clip' / 'README.md').read_text()
    assert front_matter(card) == {
        'license': 'cc-by-4.0',
        'library_name': library,
        'pipeline_tag': 'zero-shot-image-classification',
        'tags': ['clip', 'clip-pgs'],
    }
    assert '\n# a-clip\n' in card
    assert 'Converted from `random numbers`.' in card
    same_trees(read(tmp_path / 'a-clip').params, small.params)
    without = write_card('a', kind, small, Facts())
    assert 'license' not in front_matter(without)
    assert 'Not stated.' in without


@pytest.fixture
def run(tmp_path):
    """The folder of a run with the facts of a card, without weights."""
    folder = tmp_path / 'private' / 'run'
    (folder / 'checkpoints').mkdir(parents=True)
    config = base.get_config().to_dict() | {'total_steps': 300, 'init_from': '/home/me/first.pt'}
    write_json(folder / 'config.json', config)
    write_json(folder / 'environment.json', {'starts': [{'data': [{'pairs': 1000000}]}]})
    results = {'step': 250, 'text_recall@5': 0.25, 'image_recall@5': None, 'n_eval': 424}
    write_json(folder / 'results.json', results)
    return folder


def test_a_run_gives_data_strategy_and_scores(small, run):
    loaded = small._replace(source=f'{run}, step 250')
    card = write_card('a', 'hf', loaded, read_facts(run, loaded, None, ''))
    for words in (
        '| data | cc12m, 1,000,000 pairs |',
        '| steps | 250 of 300, batch 4096 |',
        'pgs candidate_ratio=0.05, min_ratio=0.3, max_ratio=0.5',
        '| started from | `first.pt` |',
        '| held-out pairs (424) | text_recall@5 25.0 |',
    ):
        assert words in card
    assert 'private' not in card  # a folder of this machine
    assert 'threshold=1.0' in card
    assert 'anchor_ratio' not in card  # an option of another strategy
    earlier = small._replace(source=f'{run}, step 200')
    assert not read_facts(run, earlier, None, '').held_out


def test_a_run_whose_files_are_damaged_still_gives_a_card(small, run):
    loaded = small._replace(source=f'{run}, step 250')
    (run / 'results.json').write_text('[1]')
    (run / 'environment.json').write_text('{"starts": [{"data": 3}]}')
    facts = read_facts(run, loaded, None, '')
    assert (facts.pairs, facts.held_out, facts.step) == (None, {}, 250)
    (run / 'config.json').write_text('{"data": []}')
    assert read_facts(run, loaded, None, 'mit') == Facts(license='mit')


def test_scores_of_an_evaluation_must_be_of_these_weights(small, tmp_path):
    path = tmp_path / 'results.json'
    tasks = {'zeroshot/food101': {'metrics': {'acc1': 0.465, 'acc5': 0.75}}}
    content = {'checkpoint': 'a', 'weights': fingerprint(small.params), 'tasks': tasks}
    write_json(path, content)
    card = write_card('a', 'hf', small, read_facts('a.pt', small, str(path), ''))
    assert '| `zeroshot/food101` | acc1 46.5, acc5 75.0 |' in card
    for change, words in (
        ({'weights': 'others'}, 'of other weights'),
        ({'masking': {}}, 'of masked images'),
        ({'tasks': {'a': {}}}, 'give a results file of pgs.evaluate'),
        ({'tasks': {'a': {'metrics': {'acc1': 'x'}}}}, 'is no number'),
    ):
        write_json(path, content | change)
        with pytest.raises(UserError, match=words):
            read_facts('a.pt', small, str(path), '')
    with pytest.raises(UserError, match='--license='):
        read_facts('a.pt', small, None, 'MIT\nx: y')


@pytest.fixture
def sharded(small, tmp_path):
    """A folder of Hugging Face's layout whose weights are in three files."""
    export(small, 'hf', tmp_path / 'whole')
    folder = tmp_path / 'sharded'
    shutil.copytree(tmp_path / 'whole', folder)
    weights = load_file(folder / 'model.safetensors')
    (folder / 'model.safetensors').unlink()
    weight_map = {}
    for number, names in enumerate(np.array_split(sorted(weights), 3), 1):
        file = f'model-{number:05}-of-00003.safetensors'
        save_file({name: weights[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names.tolist(), file)
    write_json(folder / 'model.safetensors.index.json', {'weight_map': weight_map})
    return folder


def changed_index(folder, change) -> None:
    path = folder / 'model.safetensors.index.json'
    content = json.loads(path.read_text())
    change(content['weight_map'])
    path.write_text(json.dumps(content))


def test_weights_in_several_files_are_read(small, sharded):
    loaded = load_model(sharded)
    same_trees(jax.tree.map(np.asarray, loaded.params), small.params)
    assert loaded.source.endswith('model.safetensors.index.json')


def test_absent_files_are_named_in_one_line(sharded):
    for number in (1, 3):
        (sharded / f'model-{number:05}-of-00003.safetensors').unlink()
    with pytest.raises(
        UserError, match=r'lacks 2 of 3 files .*model-00001.*, model-00003'
    ) as caught:
        load_model(sharded)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    'name',
    ['../model.safetensors', '/etc/model.safetensors', 'a/b.safetensors', '..\\b.safetensors'],
)
def test_a_path_that_leaves_the_folder_is_refused(small, sharded, name):
    changed_index(sharded, lambda files: files.update(logit_scale=name))
    with pytest.raises(UserError, match='which is not in its own folder'):
        load_model(sharded)


def test_an_index_that_does_not_fit_its_files_is_refused(sharded):
    index = sharded / 'model.safetensors.index.json'
    changed_index(sharded, lambda files: files.pop('logit_scale'))
    with pytest.raises(UserError, match="'logit_scale' is in one of them only"):
        load_model(sharded)
    changed_index(sharded, lambda files: files.update(logit_scale='weights.pkl'))
    with pytest.raises(UserError, match=r"names 'weights\.pkl' as a file of weights"):
        load_model(sharded)
    for content in ('{', '[]', '{"weight_map": {}}', '{"weight_map": 1}'):
        index.write_text(content)
        with pytest.raises(UserError, match=r'index\.json'):
            load_model(sharded)
