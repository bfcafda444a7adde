"""Reads what a compiled program does to memory and wires off its HLO text.

XLA's cost analysis counts a loop's body once and does not name collectives. Here each instruction
counts as often as the loops around it turn.
"""

import math
import re
from collections import defaultdict
from typing import NamedTuple

import numpy as np

BYTES = {
    'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2, 's32': 4, 'u32': 4,
    'f32': 4, 's64': 8, 'u64': 8, 'f64': 8, 'c64': 8, 'c128': 16,
}  # fmt: skip
COLLECTIVES = (
    'all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute',
)  # fmt: skip
# Instructions that move nothing themselves.
FREE = {
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional', 'call',
    'after-all', 'partition-id', 'replica-id', 'iota', 'opt-barrier',
}  # fmt: skip
ARRAY = re.compile(r'(\w+)\[([\d,]*)\](\{[^}]*\})?')


class Instruction(NamedTuple):
    name: str
    shape: str
    opcode: str
    arguments: str  # between the brackets
    attributes: str  # behind them
    root: bool

    def operands(self) -> list[str]:
        return re.findall(r'%([\w.\-]+)', self.arguments)


class Collective(NamedTuple):
    """One kind of exchange over one group of devices, summed over a step."""

    kind: str
    axis: str  # 'data', 'fsdp', 'all' or the number of devices in a group
    count: int
    bytes: int  # result of each device


class Traffic(NamedTuple):
    memory_bytes: int  # read from and written to a device's main memory in a step
    selection_bytes: int  # of these, by the patch selection
    cycles: int  # the compiler's own estimate, 0 where it gives none
    selection_cycles: int
    collectives: list[Collective]


def enclosed(text: str, start: int) -> int:
    """Position after the bracket that closes the one at `start`."""
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == '(') - (text[position] == ')')
        if depth == 0:
            return position + 1
    raise ValueError(f'no closing bracket in {text[start : start + 80]!r}')


def parse(text: str) -> tuple[str, dict[str, dict[str, Instruction]]]:
    """(name of the entry computation, instructions by computation and name)."""
    entry, computations, current = '', {}, None
    for line in text.splitlines():
        header = re.match(r'(ENTRY )?%?([\w.\-]+) \(.*\{$', line)
        if header:
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
            continue
        match = re.match(r'\s+(ROOT )?%?([\w.\-]+) = ', line)
        if not match or current is None:
            continue
        rest = line[match.end() :]
        end = enclosed(rest, 0) if rest.startswith('(') else rest.index(' ')
        shape, rest = rest[:end], rest[end:].lstrip()
        bracket = rest.index('(')
        close = enclosed(rest, bracket)
        arguments, attributes = rest[bracket + 1 : close - 1], rest[close:]
        current[match[2]] = Instruction(
            match[2], shape, rest[:bracket], arguments, attributes, bool(match[1])
        )
    return entry, computations


def size(shape: str, *, main_memory: bool = True) -> int:
    """Bytes of an array or a tuple; with main_memory, without what lies in a chip's own memory."""
    total = 0
    for dtype, dims, layout in ARRAY.findall(shape):
        if dtype not in BYTES or (main_memory and re.search(r'S\([1-9]', layout)):
            continue
        total += BYTES[dtype] * math.prod(int(d) for d in dims.split(',') if d)
    return total


def called(instruction: Instruction, attribute: str) -> str | None:
    match = re.search(attribute + r'=%?([\w.\-]+)', instruction.attributes)
    return match[1] if match else None


def loop_length(computations, loop: Instruction) -> int:
    """Turns of a `while` that counts from 0 up to a constant, as all loops of a step do."""
    known = re.search(r'known_trip_count\W+n\W+(\d+)', loop.attributes)
    if known:
        return int(known[1])
    seen, queue, limits = set(), [called(loop, 'condition')], []
    while queue:
        name = queue.pop()
        if name in seen or name not in computations:
            continue
        seen.add(name)
        for i in computations[name].values():
            queue.append(called(i, 'calls'))
            if i.opcode == 'constant' and re.match(r'[su]\d+\[\]', i.shape):
                limits.append(int(i.arguments))
    if not limits:
        raise ValueError(f'loop {loop.name}: no constant limit in its condition')
    return max(limits)


def multiplicity(entry: str, computations) -> tuple[dict[str, int], dict[str, int]]:
    """How often each computation runs in a step: (those that move data, those within fusions)."""
    runs, fused = defaultdict(int), defaultdict(int)

    def visit(name: str, times: int, into: dict[str, int]):
        into[name] += times
        for i in computations[name].values():
            if i.opcode == 'while':
                turns = times * loop_length(computations, i)
                visit(called(i, 'body'), turns, into)
            elif i.opcode == 'conditional':
                for branch in re.findall(r'%([\w.\-]+)', i.attributes.split('metadata')[0]):
                    if branch in computations:
                        visit(branch, times, into)
            elif i.opcode == 'call':
                visit(called(i, 'to_apply'), times, into)
            elif called(i, 'calls') in computations:
                visit(called(i, 'calls'), times, fused)

    visit(entry, 1, runs)
    return runs, fused


def moved(i: Instruction, body: dict[str, Instruction], computations) -> int:
    """Bytes of main memory that one run of an instruction reads and writes."""
    if i.opcode in FREE or i.opcode.endswith('-done'):
        return 0
    if i.opcode.endswith('-start'):
        return size(i.shape)  # a tuple of what is read and what is written
    operands = [body[name] for name in i.operands() if name in body]
    if i.opcode == 'dynamic-slice':
        return 2 * size(i.shape)
    if i.opcode == 'dynamic-update-slice':
        return 2 * size(operands[1].shape)
    fused = computations.get(called(i, 'calls'))
    if i.opcode != 'fusion' or fused is None:
        return size(i.shape) + sum(size(o.shape) for o in operands)
    total = 0
    for number, operand in enumerate(operands):
        if size(operand.shape):
            total += int(min(size(operand.shape), read(number, fused, computations)))
    root = next(inner for inner in fused.values() if inner.root)
    results = [fused[n] for n in root.operands()] if root.opcode == 'tuple' else [root]
    outer = ARRAY.findall(i.shape)
    for result, (dtype, dims, layout) in zip(results, outer, strict=False):
        total += written(result, f'{dtype}[{dims}]{layout}', fused)
    return total


def read(number: int, fused: dict[str, Instruction], computations) -> float:
    """Bytes that a fusion reads of one operand: slices alone where it is but sliced or updated."""
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
            inner = computations.get(called(use, 'calls'))
            if use.opcode == 'bitcast':
                names.append(use.name)
            elif use.opcode == 'dynamic-slice':
                total += size(use.shape, main_memory=False)
            elif use.opcode == 'fusion' and inner is not None:
                total += read(operands.index(name), inner, computations)
            elif use.opcode != 'dynamic-update-slice' or operands[0] != name:
                return math.inf
    return total


def written(result: Instruction, outer_shape: str, fused) -> int:
    """Of a fusion's result, what is written: the update alone where it is written in place."""
    while result.opcode in ('bitcast', 'copy', 'convert') and result.operands()[0] in fused:
        result = fused[result.operands()[0]]
    if result.opcode == 'dynamic-update-slice' and size(outer_shape):
        return size(fused[result.operands()[1]].shape, main_memory=False)
    return size(outer_shape)


def group_of(attributes: str, data: int, fsdp: int) -> str:
    """Mesh axis along which the devices of a collective lie."""
    devices = data * fsdp
    named = re.search(r'replica_groups=mesh\[([^\]]*)\]\s*(?:[^{,]*)\{([^}]*)\}', attributes)
    iota = re.search(r'replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', attributes)
    listed = re.search(r'replica_groups=\{\{([\d,]+)\}', attributes)
    if named:
        axes = {n: int(s) for n, s in re.findall(r"'(\w+)'=(\d+)", named[1])}
        over = re.findall(r"'(\w+)'", named[2])
        ids = np.arange(math.prod(axes.values())).reshape(tuple(axes.values()))
        index = tuple(slice(None) if a in over else 0 for a in axes)
        first = ids[index].flatten()
    elif iota:
        shape = [int(n) for n in iota[3].split(',')]
        order = [int(n) for n in iota[4].split(',')] if iota[4] else range(len(shape))
        ids = np.arange(devices).reshape(shape).transpose(order)
        first = ids.reshape(int(iota[1]), int(iota[2]))[0]
    elif listed:
        first = np.array([int(n) for n in listed[1].split(',')])
    else:
        return 'all'
    ids = np.arange(devices).reshape(data, fsdp)
    for axis, members in (('all', ids), ('fsdp', ids[0]), ('data', ids[:, 0])):
        if len(first) == members.size and set(first) == set(members.flatten()):
            return {'all': 'data' if fsdp == 1 else 'all'}.get(axis, axis)
    return f'{len(first)} devices'


def traffic(text: str, *, data: int, fsdp: int) -> Traffic:
    """What one step of a compiled program moves, on each device.

    Args:
      text: compiled.as_text().
      data, fsdp: devices along the axes of the mesh.
    """
    entry, computations = parse(text)
    runs, fused = multiplicity(entry, computations)
    sums, exchanged, channels = defaultdict(int), defaultdict(lambda: [0, 0]), set()
    for name, times in [*runs.items(), *fused.items()]:
        for i in computations[name].values():
            kind = i.opcode.removesuffix('-start')
            if kind in COLLECTIVES:
                channel = re.search(r'channel_id=(\d+)', i.attributes)
                if channel and channel[1] in channels:
                    continue  # one exchange that the compiler has spread over several fusions
                channels.add(channel and channel[1])
                total = exchanged[kind, group_of(i.attributes, data, fsdp)]
                total[0] += times
                whole = size(i.shape, main_memory=False)
                total[1] += times * (whole // 2 if i.opcode.endswith('-start') else whole)
            if name in runs:
                cycles = re.search(r'"estimated_cycles":"(\d+)"', i.attributes)
                part = 'selection' if 'patch_selection' in i.attributes else 'rest'
                sums['bytes', part] += times * moved(i, computations[name], computations)
                sums['cycles', part] += times * int(cycles[1]) if cycles else 0
    return Traffic(
        sums['bytes', 'selection'] + sums['bytes', 'rest'],
        sums['bytes', 'selection'],
        sums['cycles', 'selection'] + sums['cycles', 'rest'],
        sums['cycles', 'selection'],
        [Collective(*key, *counts) for key, counts in sorted(exchanged.items())],
    )
