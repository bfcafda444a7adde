"""Names of tasks and groups."""

import pytest
import tensorflow_datasets as tfds

from pgs.errors import UserError
from pgs.evaluate import run
from pgs.evaluate.tasks import GROUPS, PROTOCOLS, SETS, expand, location_of


def test_the_groups_have_the_papers_sizes():
    assert {name: len(tasks) for name, tasks in GROUPS.items()} == {
        'classification': 17,
        'robustness': 6,
        'retrieval': 3,
        'linear_probe': 3,
        'sugar_crepe': 7,
        'paper': 36,
    }


def test_every_protocol_can_be_run():
    assert tuple(run.PROTOCOLS) == PROTOCOLS


def test_expand_keeps_the_order_and_takes_each_once():
    tasks = expand(['zeroshot/own', 'retrieval', 'retrieval/flickr8k', 'zeroshot/own'])
    assert tasks == ['zeroshot/own', *GROUPS['retrieval']]


@pytest.mark.parametrize(
    ('names', 'words'),
    [
        (['clasification'], 'did you mean classification'),
        (['zeroshot/'], 'no task'),
        (['zeroshot/a/b'], 'no task'),
        (['zeroshoot/food101'], 'did you mean zeroshot/food101'),
        ([], 'no task given'),
    ],
)
def test_a_wrong_name_is_an_error(names, words):
    with pytest.raises(UserError, match=words):
        expand(names)


def test_folders_are_clip_benchmarks():
    assert location_of('cifar10').folder == 'vtab-cifar10'
    assert location_of('my_set').folder == 'my_set'


def test_tfds_has_the_sets_that_are_listed_as_in_tfds():
    known = set(tfds.list_builders())
    assert {names[0] for _, names in SETS.values() if names} <= known
