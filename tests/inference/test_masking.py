"""Scoring with masks: what an image's mask depends on, where it comes from, and what is refused."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
from conftest import one_device_mesh, shrunk_quickstart
from PIL import Image

from pgs.convert import load_model
from pgs.errors import UserError
from pgs.inference import embed_images, load_clip
from pgs.inference.embedding import make_embedder
from pgs.inference.masking import find_mask, run_masking, scoring_mask
from pgs.masking import configured, known_strategies
from pgs.masking.selection import visible_patches
from pgs.models.class_attention import make_scorer
from pgs.models.clip import CLIP, normalize_images

MASKING = [name for name in known_strategies() if name != 'none']


@pytest.fixture(scope='module')
def loaded(untrained_clip):
    return load_model(untrained_clip)


@pytest.fixture(scope='module')
def images(photos):
    """Nine different crops of photographs, uint8 (9, 32, 32, 3)."""
    return np.stack([photos[i % 5, 20 * i : 20 * i + 32, 50:82] for i in range(9)])


@pytest.fixture
def run_folder(tmp_path):
    """A folder that has a run's config.json and no weights: what `find_mask` reads."""
    config = shrunk_quickstart(total_steps=1)
    config.masking.update(min_ratio=0.5, until=0.9, whole_share=0.25, edge_weight=2.0)
    (tmp_path / 'run' / 'checkpoints').mkdir(parents=True)
    (tmp_path / 'run' / 'config.json').write_text(json.dumps(config.to_dict()))
    return tmp_path / 'run'


def test_without_a_mask_nothing_changes(untrained_clip, loaded, images):
    """Equal to the bit to a program that knows no masks."""
    mesh = one_device_mesh(len(images))
    embedder = make_embedder(loaded.model, mesh, len(images)).with_params(loaded.params)

    def plain(params, images):
        images = normalize_images(images)
        return loaded.model.apply({'params': params}, images, method=CLIP.embed_images)

    np.testing.assert_array_equal(
        embedder.images(images), np.asarray(jax.jit(plain)(loaded.params, images))
    )
    assert find_mask('none', untrained_clip, loaded.model) is None
    np.testing.assert_array_equal(
        load_clip(untrained_clip, masking='none').images(images),
        load_clip(untrained_clip).images(images),
    )


@pytest.mark.parametrize('name', MASKING)
def test_masked_features_are_those_of_the_selection(name, untrained_clip, loaded, images):
    """One image at a time with the strategy's own call, against the batched embedder."""
    options = {'strategy': name, 'long_share': 1.0}
    strategy = configured(options, loaded.model.image.patch_size)

    score = make_scorer(strategy, loaded.model.image)

    @jax.jit
    def embed(image):
        variables, image = {'params': loaded.params}, normalize_images(image)
        scores = score(loaded.params['image_tower'], image)  # the tower's own, if any are wanted
        select = functools.partial(strategy, jax.random.key(0)[None], progress=1.0, **scores)
        return loaded.model.apply(variables, image, select, method=CLIP.embed_images)

    expected = np.concatenate([embed(image[None]) for image in images])
    masked = load_clip(untrained_clip, masking=name).images(images)
    np.testing.assert_allclose(masked, expected, atol=1e-5)
    assert np.abs(masked - load_clip(untrained_clip).images(images)).max() > 1e-3


@pytest.mark.parametrize('name', MASKING)
def test_a_mask_does_not_depend_on_the_other_images(name, untrained_clip, loaded, images):
    mask = find_mask(name, untrained_clip, loaded.model)

    @jax.jit
    def visible(images):
        variables, images = {'params': loaded.params}, normalize_images(images)
        select = mask.select_with(loaded.params, images)
        return loaded.model.apply(variables, images, select, method=CLIP.select_patches)

    together = visible_patches(jax.device_get(visible(images)), 16)
    order = [3, 8, 1, 0, 7, 2, 6, 5, 4]
    shuffled = visible_patches(jax.device_get(visible(images[order])), 16)
    np.testing.assert_array_equal(shuffled, together[order])
    clip = load_clip(untrained_clip, masking=name)
    np.testing.assert_allclose(clip.images(images)[order], clip.images(images[order]), atol=1e-6)
    np.testing.assert_allclose(clip.images(images)[4:5], clip.images(images[4:5]), atol=1e-6)


def test_a_run_gives_its_options(run_folder, untrained_clip, loaded):
    model = loaded.model
    trained = find_mask('trained', run_folder, model)
    assert trained.label == 'pgs 0.5'
    assert trained.settings['edge_weight'] == 2.0
    assert trained.settings['long_share'] == 1.0
    assert not {'until', 'whole_share', 'mask_ratio'} & trained.settings.keys()
    assert find_mask('pgs', run_folder, model).settings == trained.settings
    assert find_mask('cluster', run_folder, model).settings['min_ratio'] == 0.5
    assert find_mask('cluster', untrained_clip, model).settings['min_ratio'] == 0.3
    assert run_masking(untrained_clip) is None
    config = json.loads((run_folder / 'config.json').read_text())
    assert scoring_mask(config['masking'], model.image).settings == trained.settings


def test_a_run_without_masks_is_scored_whole(run_folder, loaded, capsys):
    path = run_folder / 'config.json'
    config = json.loads(path.read_text())
    config['masking'].update(strategy='random', mask_ratio=0.0)
    path.write_text(json.dumps(config))
    assert find_mask('trained', run_folder, loaded.model) is None
    assert 'note: masking=trained masks nothing' in capsys.readouterr().out


def test_mistakes_get_one_line(run_folder, untrained_clip, loaded, tmp_path):
    for masking, checkpoint, words in (
        (
            'pqs',
            untrained_clip,
            'masking=pqs is unknown: did you mean pgs? known are none, trained',
        ),
        ('trained', untrained_clip, 'needs the folder of a run'),
    ):
        with pytest.raises(UserError) as error:
            load_clip(checkpoint, masking=masking)
        assert words in str(error.value)
        assert len(str(error.value).splitlines()) == 1
    config = json.loads((run_folder / 'config.json').read_text())
    config['masking'].update(strategy='cluster', anchor_ratio=0.95)
    (run_folder / 'config.json').write_text(json.dumps(config))
    with pytest.raises(
        UserError, match=r'masking=trained does not fit .*run, 16 patches .*none of'
    ):
        find_mask('trained', run_folder, loaded.model)
    shutil.copytree(run_folder, tmp_path / 'other')
    (tmp_path / 'other' / 'config.json').write_text('{"model": {}}')
    with pytest.raises(UserError, match=r"cannot read a run's masking in .*config\.json"):
        find_mask('trained', tmp_path / 'other', loaded.model)


def test_pictures_are_masked(untrained_clip, images):
    pictures = [Image.fromarray(image) for image in images]
    clip = load_clip(untrained_clip, masking='random')
    np.testing.assert_allclose(embed_images(clip, pictures), clip.images(images), atol=1e-6)
