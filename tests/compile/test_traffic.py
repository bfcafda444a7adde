"""Traffic by HLO text: of a written program, and of a compiled one whose traffic is known."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pgs import sharding
from pgs.compile.traffic import Collective, step_traffic

PROGRAM = """HloModule step

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%sliced (p0: f32[12,64], p1: s32[]) -> f32[1,64] {
  %p0 = f32[12,64]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = f32[1,64]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,64}
}

%condition (s: (s32[], f32[12,64])) -> pred[] {
  %s = (s32[], f32[12,64]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %limit = s32[] constant(12)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%body (s: (s32[], f32[12,64])) -> (s32[], f32[12,64]) {
  %s = (s32[], f32[12,64]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[12,64]{1,0} get-tuple-element(%s), index=1
  %row = f32[1,64]{1,0} fusion(%x, %i), kind=kLoop, calls=%sliced, metadata={op_name="jit/patch_selection/slice"}, backend_config={"estimated_cycles":"7"}
  %reduced = f32[1,64]{1,0} all-reduce(%row), channel_id=1, replica_groups=REPLICAS, to_apply=%add
  ROOT %next = (s32[], f32[12,64]{1,0}) tuple(%i, %x)
}

ENTRY %main (x: f32[12,64]) -> f32[12,64] {
  %x = f32[12,64]{1,0} parameter(0)
  %start = s32[] constant(0)
  %state = (s32[], f32[12,64]{1,0}) tuple(%start, %x)
  %loop = (s32[], f32[12,64]{1,0}) while(%state), condition=%condition, body=%body
  %near = f32[12,64]{1,0:T(8,128)S(1)} copy(%x), backend_config={"estimated_cycles":"5"}
  ROOT %result = f32[12,64]{1,0} get-tuple-element(%loop), index=1
}
"""
ROW, ALL = 64 * 4, 12 * 64 * 4


def program(replicas='{{0,1,2,3}}'):
    return PROGRAM.replace('REPLICAS', replicas)


def test_a_loop_counts_each_iteration():
    found = step_traffic(program(), {'data': 4, 'fsdp': 1})
    assert found.collectives == [Collective('all-reduce', 'data', 12, 12 * ROW)]
    # Only the slice of x is read, and its index of 4 bytes.
    assert found.selection_bytes == 12 * (2 * ROW + 4)
    # The all-reduce reads and writes a row; the copy reads x and writes on-chip memory.
    assert found.memory_bytes == 12 * (2 * ROW + 4) + 12 * 2 * ROW + ALL
    others = {"image tower's attention": 0, 'image tower': 0, 'text tower': 0}
    assert found.cycles == {'selection': 12 * 7, **others, 'loss and optimizer': 5}


def test_a_slice_at_a_fixed_place_is_read_alone():
    """As those of weights are, where layers follow each other without a loop."""
    loop = 'dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,64}'
    assert loop in PROGRAM
    fixed = program().replace(loop, 'slice(%p0), slice={[3:4], [0:64]}')
    moved = [step_traffic(text, {'data': 4}).selection_bytes for text in (program(), fixed)]
    assert moved == [12 * (2 * ROW + 4), 12 * 2 * ROW]


def test_instructions_belong_to_the_module_that_they_are_named_after():
    name = 'jit/patch_selection/slice'
    for other, part in {
        'jit(train_step)/image_tower/transformer/blocks/blocks.attend/dot': "image tower's attention",
        'jit(train_step)/transpose/image_tower/transformer/blocks/fc/dot': 'image tower',
        'jit(train_step)/CLIP.embed_texts/text_tower/transformer/blocks.attend/dot': 'text tower',
        'jit(train_step)/mul': 'loss and optimizer',
    }.items():
        found = step_traffic(program().replace(name, other), {'data': 4})
        assert found.cycles[part] >= 12 * 7
        assert found.cycles['selection'] == 0


@pytest.mark.parametrize(
    ('replicas', 'axis'),
    [
        ('{{0,1},{2,3}}', 'fsdp'),
        ('{{0,2},{1,3}}', 'data'),
        ('{{0,1,2,3}}', 'all'),
        ('[2,2]<=[4]', 'fsdp'),
        ('[2,2]<=[2,2]T(1,0)', 'data'),
        ("mesh['axis_0'=2,'axis_1'=2] {'axis_1'}", 'fsdp'),
        ("mesh['axis_0'=2,'axis_1'=2] {'axis_0'}", 'data'),
        ("mesh['axis_0'=2,'axis_1'=2] {'axis_0','axis_1'}", 'all'),
        ("mesh['axis_0'=2,'axis_1'=2], device_ids=([2,2]T(1,0)) {'axis_0'}", 'fsdp'),
        ("mesh['axis_0'=2,'axis_1'=2], device_ids=([2,2]T(1,0)) {'axis_1'}", 'data'),
        ('{{0,3},{1,2}}', '2 devices'),
    ],
)
def test_devices_of_a_collective(replicas, axis):
    assert step_traffic(program(replicas), {'data': 2, 'fsdp': 2}).collectives[0].axis == axis


def test_groups_over_some_axes_are_named_by_them():
    mesh = {'data': 2, 'zero': 2, 'fsdp': 2}
    for replicas, axis in (
        ('{{0,2,4,6},{1,3,5,7}}', 'data x zero'),
        ('{{0,2},{1,3},{4,6},{5,7}}', 'zero'),
        ('{{0,1,2,3,4,5,6,7}}', 'all'),
    ):
        assert step_traffic(program(replicas), mesh).collectives[0].axis == axis


def test_a_compiled_exchange_is_found():
    """A sum over a sharded axis is one all-reduce of the result."""
    mesh = sharding.make_mesh({'data': 4, 'fsdp': 2}, 8)
    split = NamedSharding(mesh, PartitionSpec(sharding.AXES))
    total = jax.jit(lambda x: x.sum(axis=0), in_shardings=split)
    text = total.lower(jax.ShapeDtypeStruct((64, 1024), jnp.float32)).compile().as_text()
    found = step_traffic(text, mesh.shape)
    assert found.collectives == [Collective('all-reduce', 'all', 1, 4096)]
    assert found.memory_bytes >= 8 * 4096  # each device reads its eight rows


def test_a_kernel_counts_by_what_it_states_as_often_as_its_loop_runs():
    kernel = (
        '  %k = f32[1,64]{1,0} custom-call(%row), custom_call_target="tpu_custom_call", '
        'backend_config={"custom_call_config":{"body":"TU","cost_estimate":{"flops":"100",'
        '"transcendentals":"9","bytes_accessed":"20","remote_bytes_transferred":"0"}}}\n'
    )
    text = PROGRAM.replace('REPLICAS', '{{0,1}}').replace('  %reduced', kernel + '  %reduced')
    traffic = step_traffic(text, {'data': 2})
    assert (traffic.kernel_flops, traffic.kernel_bytes) == (12 * 100, 12 * 20)
    assert step_traffic(PROGRAM.replace('REPLICAS', '{{0,1}}'), {'data': 2}).kernel_flops == 0


def test_sums_that_a_tpu_fuses_with_their_slices_are_reduce_scatters():
    """They share one channel, and each counts; what they add up is exchanged once, not twice."""
    fused = """%all-reduce-scatter.N (x: f32[12,64]) -> f32[3,64] {
  %x = f32[12,64]{1,0} parameter(0)
  %sum.N = f32[12,64]{1,0} all-reduce(%x), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
  %place = s32[] constant(0)
  ROOT %mine.N = f32[3,64]{1,0} dynamic-slice(%sum.N, %place, %place), dynamic_slice_sizes={3,64}
}

"""
    calls = ''.join(
        f'  %s{n} = f32[3,64] fusion(%x), kind=kCustom, calls=%all-reduce-scatter.{n}\n'
        for n in (1, 2)
    )
    parts = ''.join(fused.replace('.N', f'.{n}') for n in (1, 2))
    text = program().replace('ENTRY', parts + 'ENTRY').replace('  %near', calls + '  %near')
    rows = Collective('all-reduce', 'data', 12, 12 * ROW)
    sums = Collective('reduce-scatter', 'data', 2, 2 * ALL)
    assert step_traffic(text, {'data': 4}).collectives == [rows, sums]


def test_a_reduce_scatter_counts_what_it_adds_up():
    text = program().replace(
        'f32[1,64]{1,0} all-reduce(%row)', 'f32[1,16]{1,0} reduce-scatter(%row)'
    )
    expected = [Collective('reduce-scatter', 'data', 12, 12 * ROW)]
    assert step_traffic(text, {'data': 4}).collectives == expected
