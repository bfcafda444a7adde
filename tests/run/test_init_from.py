"""A run that starts from the weights of another run, with another image size and mesh."""

import shutil

import jax
import numpy as np
import pytest
from conftest import one_device_mesh, shrunk_quickstart
from etils import epath
from small_clip import same_trees

from configs import base, finetune, vitb16_pgs, vitb16_pgs_tune
from input_pipeline import sources
from pgs import sharding
from pgs.build import build, check_config
from pgs.convert import load_model
from pgs.convert.architecture import with_architecture
from pgs.convert.load import read
from pgs.convert.positions import resize_positions
from pgs.errors import UserError
from pgs.run import checkpoint, init_from, summary, workdir
from pgs.step import TrainState, init_state
from pgs.train import train


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """The workdir of an untrained quickstart with another seed, written as train() writes it."""
    folder = tmp_path_factory.mktemp('source') / 'run'
    config = shrunk_quickstart(total_steps=2)
    config.seed = 7
    workdir.prepare(folder, config.to_dict())
    job = build(config, total_steps=2, platform='cpu')
    state = init_state(job.model, job.optimizer, config.seed, one_device_mesh(config.batch_size))
    with checkpoint.open_manager(folder / 'checkpoints', keep=1) as manager:
        checkpoint.save(manager, 2, state)
    return folder


def tuning(source, **changes):
    """A config of one step at learning rate 0: the run saves the weights that it started from."""
    config = shrunk_quickstart(total_steps=1)
    config.init_from = str(source)
    config.masking.strategy = 'none'
    config.optimizer.peak_learning_rate = 0.0
    config.model.image.update(image_size=48, **changes)
    return config


def test_tuning_starts_from_the_source(source, tmp_path, capsys, monkeypatch):
    # Figures and scores are not tested here and would take longer.
    monkeypatch.setattr(summary, 'finish', lambda *_, **__: {})
    monkeypatch.setattr(sources, 'open_held_out', lambda _: None)
    copy = shutil.copytree(source, tmp_path / 'copy')
    config = tuning(copy)
    config.model.image.update(width=64, heads=4)
    config.update(model_from_weights=True, weights_ema=0.5)
    train(config, tmp_path / 'tuned')
    assert (
        f'Weights from {copy}, step 2, positions resampled from 32 to 48' in capsys.readouterr().out
    )

    before, after = read(source), load_model(tmp_path / 'tuned')
    assert after.source.endswith('step 1, average of the weights')
    assert after.config['image']['image_size'] == 48
    positions = after.params['image_tower'].pop('positions')
    expected = resize_positions(before.params['image_tower'].pop('positions'), 6)
    np.testing.assert_array_equal(positions, expected)
    same_trees(after.params, before.params)

    # A resumed run does not read the source, which may have been deleted.
    shutil.rmtree(copy)
    assert init_from.read_initial(config, tmp_path / 'tuned') is None
    resumed = with_architecture(config, epath.Path(tmp_path / 'tuned'))
    assert resumed.model.image.to_dict() == {**before.config['image'], 'image_size': 48}
    with pytest.raises(UserError, match='copy does not exist'):
        init_from.read_initial(config, tmp_path / 'new')


def test_weights_of_another_architecture_are_refused_before_anything_is_written(source, tmp_path):
    for changes, words in (
        ({'width': 64}, r'image\.width is 64, but 32 in .*step 2'),
        ({'patch_size': 16}, r'image\.patch_size is 16, but 8 in'),
        ({'mlp_ratio': 2.0}, r'image\.mlp_ratio is 2\.0, but 4\.0 in'),
    ):
        with pytest.raises(UserError, match=words):
            train(tuning(source, **changes), tmp_path / 'tuned')
    config = tuning(source)
    config.model.quick_gelu = True
    with pytest.raises(UserError, match='quick_gelu is True, but False in'):
        train(config, tmp_path / 'tuned')
    assert not (tmp_path / 'tuned').exists()


def test_the_model_is_that_of_the_weights(source):
    config = finetune.get_config(str(source))
    found = with_architecture(config)
    assert config.model.image.image_size is None  # the config itself is not changed
    theirs = read(source).config
    for key in ('image', 'text'):
        assert found.model[key].to_dict() == theirs[key]
    assert found.model.embed_dim == theirs['embed_dim']
    assert found.model.remat == base.get_config().model.remat
    check_config(found, devices=1, platform='cpu')
    config.model.image.image_size = 48
    config.model.text.tokens_per_pair = 16
    found = with_architecture(config)
    assert (found.model.image.image_size, found.model.text.tokens_per_pair) == (48, 16)
    with pytest.raises(UserError, match=r'name them by --config\.init_from=PATH'):
        with_architecture(finetune.get_config())


def test_no_device_holds_more_than_its_shard(source):
    config = tuning(source)
    config.model.image.image_size = 32
    config.model.text.tokens_per_pair = 16  # of this run, whatever the source had
    mesh = sharding.make_mesh({'data': 1, 'fsdp': 8}, 16)
    job = build(config, total_steps=1, platform='cpu')
    state = init_state(job.model, job.optimizer, 0, mesh)
    params = init_from.read_initial(config, '/nonexistent')
    placed = init_from.place(state, params)
    assert isinstance(placed, TrainState)
    table = placed.params['text_tower']['token_embedding']
    assert {s.data.shape for s in table.addressable_shards} == {(49408 // 8, 32)}
    same_trees(jax.device_get(placed.params), params)
    for new, old in zip(jax.tree.leaves(placed.params), jax.tree.leaves(state.params), strict=True):
        assert new.sharding == old.sharding


def test_the_tuning_config():
    for variant, size in (((), 224), (('336',), 336)):
        config = vitb16_pgs_tune.get_config(*variant)
        assert config.model.image.image_size == size
        assert config.masking.strategy == 'none'
        check_config(config, devices=jax.device_count(), platform='cpu')
    config.model.image.image_size = 224  # the only difference to the run that it continues
    assert config.model.to_dict() == vitb16_pgs.get_config().model.to_dict()
    for bad in ('200', 'large', '0'):
        with pytest.raises(UserError, match=f':{bad} is not an image size'):
            vitb16_pgs_tune.get_config(bad)
