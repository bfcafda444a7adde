"""What one step of a compiled program moves through memory and between chips, by its HLO text.

XLA's own cost analysis counts the body of a loop once and does not list collectives. Here each
instruction counts as often as the loops around it run.
"""

import dataclasses
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

from pgs.compile.groups import mesh_axis
from pgs.compile.hlo import ARRAY, Computation, Computations, Instruction, count_runs, parse, size

# How a TPU's compiler names a reduce-scatter: a fusion of an all-reduce and slices of its results.
SUMMED_AND_SLICED = 'all-reduce-scatter'
COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')
# fmt: off
# Instructions that move no data themselves.
FREE = {
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional', 'call',
    'after-all', 'partition-id', 'replica-id', 'iota', 'opt-barrier',
}
# fmt: on


# Parts of a step, by the names of the modules in an instruction's op_name; the first that fits.
PARTS = {
    'selection': 'patch_selection',
    "image tower's attention": 'image_tower/.*attend',
    'image tower': 'image_tower',
    'text tower': 'text_tower',
}
REST = 'loss and optimizer'
SLICES = ('slice', 'dynamic-slice')  # read only what they return


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind over one group of devices in a step."""

    kind: str
    axis: str  # 'data', 'fsdp', 'all' or the number of devices in a group
    count: int
    bytes: int  # on each device, of the results; of what a reduce-scatter adds up


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What each device moves in a step."""

    memory_bytes: int  # read from HBM and written to it
    selection_bytes: int  # the part of memory_bytes that the patch selection moves
    cycles: dict[str, int]  # the compiler's own estimate, of PARTS and REST; 0 if it gives none
    kernel_flops: int  # of Pallas kernels, within which the compiler counts no cycles
    kernel_bytes: int
    collectives: list[Collective]


def step_traffic(text: str, mesh: Mapping[str, int]) -> Traffic:
    """What one step moves on each device.

    Args:
      text: compiled.as_text().
      mesh: axis -> devices along it.
    """
    entry, computations = parse(text)
    runs, fused = count_runs(entry, computations)
    moved = {True: 0, False: 0}  # by whether it is the selection's
    cycles = dict.fromkeys((*PARTS, REST), 0)
    kernels = {'flops': 0, 'bytes_accessed': 0}
    counts: dict[tuple[str, str], int] = defaultdict(int)  # by kind and axis of a collective
    sizes: dict[tuple[str, str], int] = defaultdict(int)
    inside = distinct(fused, computations)
    for name, times, i in itertools.chain(every(runs, computations), inside):
        kind = collective_kind(i, name)
        if kind:
            key = kind, mesh_axis(i.attributes, mesh)
            counts[key] += times
            sizes[key] += times * exchanged_bytes(i, computations[name])
        if name in runs:
            part = part_of(i)
            estimated = re.search(r'"estimated_cycles":"(\d+)"', i.attributes)
            moved[part == 'selection'] += times * moved_bytes(i, computations[name], computations)
            cycles[part] += times * int(estimated[1]) if estimated else 0
            for what, value in kernel_cost(i).items():
                kernels[what] += times * value
    return Traffic(
        memory_bytes=sum(moved.values()),
        selection_bytes=moved[True],
        cycles=cycles,
        kernel_flops=kernels['flops'],
        kernel_bytes=kernels['bytes_accessed'],
        collectives=[Collective(*key, counts[key], sizes[key]) for key in sorted(counts)],
    )


def kernel_cost(i: Instruction) -> dict[str, int]:
    """'flops' and 'bytes_accessed' that a Pallas kernel states of one run; {} if it is none."""
    cost = re.search(r'"cost_estimate":\{([^}]*)\}', i.attributes)
    if i.opcode != 'custom-call' or cost is None:
        return {}
    found = dict(re.findall(r'"(flops|bytes_accessed)":"(\d+)"', cost[1]))
    return {key: int(value) for key, value in found.items()}


def part_of(i: Instruction) -> str:
    """The one of PARTS that an instruction belongs to, or REST."""
    name = re.search(r'op_name="([^"]*)"', i.attributes)
    return next((p for p, words in PARTS.items() if name and re.search(words, name[1])), REST)


def every(
    runs: Mapping[str, int], computations: Computations
) -> Iterator[tuple[str, int, Instruction]]:
    """(name of the computation, how often it runs, instruction) of all instructions.

    Args:
      runs: name of a computation -> how often it runs.
      computations: all computations of the program.
    """
    for name, times in runs.items():
        for i in computations[name].values():
            yield name, times, i


def distinct(
    fused: Mapping[str, int], computations: Computations
) -> Iterator[tuple[str, int, Instruction]]:
    """As `every`; of a collective that is split over several fusions, the first part alone."""
    channels = set()
    for name, times, i in every(fused, computations):
        channel = re.search(r'channel_id=(\d+)', i.attributes)
        # Those that a TPU's compiler fuses with a slice of their sum share a channel.
        if collective_kind(i) and channel and not name.startswith(SUMMED_AND_SLICED):
            if channel[1] in channels:
                continue
            channels.add(channel[1])
        yield name, times, i


def collective_kind(i: Instruction, computation: str = '') -> str:
    """'all-reduce' and so on; '' if the instruction is no collective.

    Args:
      i: the instruction.
      computation: name of the one that it is in.
    """
    kind = i.opcode.removesuffix('-start')
    if kind == 'all-reduce' and computation.startswith(SUMMED_AND_SLICED):
        return 'reduce-scatter'
    return kind if kind in COLLECTIVES else ''


def exchanged_bytes(i: Instruction, body: Computation) -> int:
    """Bytes of a collective in `body`: of its result, or of what a reduce-scatter adds up."""
    if i.opcode == 'reduce-scatter':
        return sum(size(body[name].shape, main_memory=False) for name in i.operands())
    total = size(i.shape, main_memory=False)
    return total // 2 if i.opcode.endswith('-start') else total  # with its operand, then


def moved_bytes(i: Instruction, body: Computation, computations: Computations) -> int:
    """Bytes of HBM that one run of an instruction of `body` reads and writes."""
    if i.opcode in FREE or i.opcode.endswith('-done'):
        return 0
    if i.opcode.endswith('-start'):
        return size(i.shape)  # a tuple of the operand and the result
    operands = [body[name] for name in i.operands() if name in body]
    if i.opcode in SLICES:
        return 2 * size(i.shape)
    if i.opcode == 'dynamic-update-slice':
        return 2 * size(operands[1].shape)
    fused = computations.get(i.called('calls'))
    if i.opcode != 'fusion' or fused is None:
        return size(i.shape) + sum(size(o.shape) for o in operands)
    total = 0
    for number, operand in enumerate(operands):
        if size(operand.shape):
            total += int(min(size(operand.shape), read_bytes(number, fused, computations)))
    root = next(inner for inner in fused.values() if inner.root)
    results = [fused[n] for n in root.operands()] if root.opcode == 'tuple' else [root]
    for result, (dtype, dimensions, layout) in zip(results, ARRAY.findall(i.shape), strict=False):
        total += written_bytes(result, f'{dtype}[{dimensions}]{layout}', fused)
    return total


def read_bytes(number: int, fused: Computation, computations: Computations) -> float:
    """Bytes that a fusion reads of its operand `number`; inf if it reads the full operand.

    An operand that is only sliced, or only updated in place, is not read in full.
    """
    parameter = next(
        i for i in fused.values() if i.opcode == 'parameter' and int(i.arguments) == number
    )
    names, total = [parameter.name], 0.0
    while names:
        name = names.pop()
        for use in fused.values():
            operands = use.operands()
            if name not in operands:
                continue
            inner = computations.get(use.called('calls'))
            if use.opcode == 'bitcast':
                names.append(use.name)
            elif use.opcode in SLICES:
                total += size(use.shape, main_memory=False)
            elif use.opcode == 'fusion' and inner is not None:
                total += read_bytes(operands.index(name), inner, computations)
            elif use.opcode != 'dynamic-update-slice' or operands[0] != name:
                return math.inf
    return total


def written_bytes(result: Instruction, outer_shape: str, fused: Computation) -> int:
    """Bytes that a fusion writes of one result; of an update in place, only the updated slice.

    Args:
      result: the instruction within the fusion.
      outer_shape: the result's shape, with its memory space, outside of the fusion.
      fused: the fusion's computation.
    """
    while result.opcode in ('bitcast', 'copy', 'convert') and result.operands()[0] in fused:
        result = fused[result.operands()[0]]
    if result.opcode == 'dynamic-update-slice' and size(outer_shape):
        return size(fused[result.operands()[1]].shape, main_memory=False)
    return size(outer_shape)
