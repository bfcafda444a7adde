"""Parses the HLO text of a compiled program: its instructions, and how often each of them runs."""

import math
import re
from collections import defaultdict
from typing import NamedTuple

# fmt: off
BYTES = {
    'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2, 's32': 4, 'u32': 4,
    'f32': 4, 's64': 8, 'u64': 8, 'f64': 8, 'c64': 8, 'c128': 16,
}
# fmt: on
ARRAY = re.compile(r'(\w+)\[([\d,]*)\](\{[^}]*\})?')  # dtype[dimensions]{layout}


class Instruction(NamedTuple):
    """One line of HLO: NAME = SHAPE OPCODE(ARGUMENTS), ATTRIBUTES."""

    name: str
    shape: str
    opcode: str
    arguments: str
    attributes: str
    root: bool  # whether its value is that of its computation

    def operands(self) -> list[str]:
        """Names of the instructions whose values it takes."""
        return re.findall(r'%([\w.\-]+)', self.arguments)

    def called(self, attribute: str) -> str:
        """The computation that an attribute such as 'body' or 'calls' names; '' if none."""
        match = re.search(attribute + r'=%?([\w.\-]+)', self.attributes)
        return match[1] if match else ''


Computation = dict[str, Instruction]  # by the instruction's name
Computations = dict[str, Computation]  # by the computation's name


def parse(text: str) -> tuple[str, Computations]:
    """(name of the entry computation, all computations) of compiled.as_text()."""
    entry = ''
    computations: Computations = {}
    current: Computation | None = None
    for line in text.splitlines():
        header = re.match(r'(ENTRY )?%?([\w.\-]+) \(.*\{$', line)
        if header:
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
            continue
        assigned = re.match(r'\s+(ROOT )?%?([\w.\-]+) = ', line)
        if assigned and current is not None:
            name, root = assigned[2], bool(assigned[1])
            current[name] = parse_instruction(name, line[assigned.end() :], root)
    return entry, computations


def parse_instruction(name: str, text: str, root: bool) -> Instruction:
    """The instruction of a line; `text` is what follows the equals sign."""
    shape_end = closing(text, 0) if text.startswith('(') else text.index(' ')
    shape, call = text[:shape_end], text[shape_end:].lstrip()
    opening = call.index('(')
    end = closing(call, opening)
    arguments, attributes = call[opening + 1 : end - 1], call[end:]
    return Instruction(name, shape, call[:opening], arguments, attributes, root)


def closing(text: str, start: int) -> int:
    """Position after the bracket that closes the one at `start`."""
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == '(') - (text[position] == ')')
        if depth == 0:
            return position + 1
    raise ValueError(f'no closing bracket in {text[start : start + 80]!r}')


def size(shape: str, *, main_memory: bool = True) -> int:
    """Bytes of an array or a tuple of arrays.

    Args:
      shape: as HLO writes it.
      main_memory: count only arrays in HBM, and not those in the chip's on-chip memory, whose
        layout has a memory space S(n).
    """
    total = 0
    for dtype, dimensions, layout in ARRAY.findall(shape):
        if dtype not in BYTES or (main_memory and re.search(r'S\([1-9]', layout)):
            continue
        total += BYTES[dtype] * math.prod(int(d) for d in dimensions.split(',') if d)
    return total


def loop_length(computations: Computations, loop: Instruction) -> int:
    """Iterations of a `while` that counts from 0 to a constant, as all loops of a step do.

    Raises:
      ValueError: no such constant.
    """
    known = re.search(r'known_trip_count\W+n\W+(\d+)', loop.attributes)
    if known:
        return int(known[1])
    seen, queue, limits = set(), [loop.called('condition')], []
    while queue:
        name = queue.pop()
        if name in seen or name not in computations:
            continue
        seen.add(name)
        for i in computations[name].values():
            queue.append(i.called('calls'))
            if i.opcode == 'constant' and re.match(r'[su]\d+\[\]', i.shape):
                limits.append(int(i.arguments))
    if not limits:
        raise ValueError(f'loop {loop.name}: no constant limit in its condition')
    return max(limits)


def count_runs(entry: str, computations: Computations) -> tuple[dict[str, int], dict[str, int]]:
    """How often each computation runs in a step.

    Returns:
      (computations outside of fusions, computations that are fused), name -> number of runs. A
      fusion reads and writes memory as one instruction; the instructions within it do not.
    """
    runs: dict[str, int] = defaultdict(int)
    fused: dict[str, int] = defaultdict(int)

    def visit(name: str, times: int, counts: dict[str, int]) -> None:
        counts[name] += times
        for i in computations[name].values():
            if i.opcode == 'while':
                visit(i.called('body'), times * loop_length(computations, i), counts)
            elif i.opcode == 'conditional':
                for branch in re.findall(r'%([\w.\-]+)', i.attributes.split('metadata')[0]):
                    if branch in computations:
                        visit(branch, times, counts)
            elif i.opcode == 'call':
                visit(i.called('to_apply'), times, counts)
            elif i.called('calls') in computations:
                visit(i.called('calls'), times, fused)

    visit(entry, 1, runs)
    return runs, fused
