"""Meshes that fit and that do not, where arrays lie, and whose rows are whose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from pgs import sharding
from pgs.errors import UserError


@pytest.mark.parametrize(
    ('data', 'fsdp', 'expected'),
    [(-1, 1, (8, 1)), (-1, 2, (4, 2)), (1, -1, (1, 8)), (2, 4, (2, 4)), (-1, 8, (1, 8))],
)
def test_axes_fill_the_devices(data, fsdp, expected):
    mesh = sharding.make_mesh({'data': data, 'fsdp': fsdp}, 16)
    assert (mesh.shape['data'], mesh.shape['fsdp']) == expected


@pytest.mark.parametrize(
    ('data', 'fsdp', 'words'),
    [
        (-1, 3, r'fsdp=3 does not fit 8 devices: set data to -1 and fsdp to one of 1, 2, 4, 8'),
        (2, 2, r'data=2, config.mesh.fsdp=2 does not fit 8 devices'),
        (16, -1, r'does not fit 8 devices'),
        (-1, -1, r'-1 \(the rest\) for one axis at most'),
        (0, 1, r'data=0'),
        (-1, -2, r'fsdp=-2'),
    ],
)
def test_a_mesh_that_does_not_fit_is_named(data, fsdp, words):
    with pytest.raises(UserError, match=words):
        sharding.make_mesh({'data': data, 'fsdp': fsdp}, 16)


def test_a_batch_that_the_devices_do_not_divide_is_named():
    mesh = {'data': -1, 'fsdp': 1}
    with pytest.raises(UserError, match=r'batch_size=6 .* 4 devices: take 4 or 8'):
        sharding.make_mesh(mesh, 6, jax.devices()[:4])
    with pytest.raises(UserError, match=r'batch_size=2 .* take 4'):
        sharding.make_mesh(mesh, 2, jax.devices()[:4])


@pytest.mark.parametrize(
    ('shape', 'spec'),
    [
        ((12, 768, 3072), PartitionSpec(None, None, 'fsdp')),
        ((12, 3072, 768), PartitionSpec(None, 'fsdp', None)),
        ((49408, 512), PartitionSpec('fsdp', None)),
        ((197, 768), PartitionSpec(None, 'fsdp')),
        ((768,), PartitionSpec()),  # small
        ((331, 333), PartitionSpec()),  # nothing that 8 divides
        ((), PartitionSpec()),
    ],
)
def test_the_longest_fitting_axis_is_split(shape, spec):
    assert sharding.state_spec(shape, 8) == spec
    assert sharding.state_spec(shape, 1) == PartitionSpec()


def test_zero_splits_what_fsdp_leaves():
    spec = sharding.state_spec
    assert spec((12, 768, 3072), 1, 8) == PartitionSpec(None, None, 'zero')
    assert spec((12, 768, 3072), 2, 4) == PartitionSpec(None, None, ('fsdp', 'zero'))
    assert spec((197, 768), 2, 5) == PartitionSpec(None, 'fsdp')  # five does not divide 384
    assert spec((197, 768), 1, 5) == PartitionSpec(None, None)
    assert spec((768,), 1, 8) == PartitionSpec()


def test_rows_of_a_batch_arrive_where_they_belong():
    mesh = sharding.make_mesh({'data': 4, 'fsdp': 2}, 16)
    batch = {'x': np.arange(32).reshape(16, 2)}
    rows = sharding.process_rows(mesh, 16)
    np.testing.assert_array_equal(rows, np.arange(16))
    for given in (None, rows):
        placed = sharding.to_devices(mesh, batch, given)['x']
        np.testing.assert_array_equal(placed, batch['x'])
        assert all(shard.data.shape == (2, 2) for shard in placed.addressable_shards)


def test_a_split_state_comes_back_whole():
    mesh = sharding.make_mesh({'data': 2, 'fsdp': 4}, 8)
    tree = {'w': jnp.arange(256.0 * 256).reshape(256, 256)}
    laid_out = jax.device_put(tree, sharding.state_sharding(mesh, tree))
    assert laid_out['w'].addressable_shards[0].data.shape == (64, 256)
    np.testing.assert_array_equal(sharding.to_host(mesh, laid_out)['w'], tree['w'])
