"""The devices among which a collective of a compiled program exchanges, by its HLO text."""

import itertools
import math
import re
from collections.abc import Mapping

import numpy as np


def mesh_axis(attributes: str, mesh: Mapping[str, int]) -> str:
    """The mesh axis of a collective's groups: its name, 'data x zero', 'all' or 'N devices'."""
    ids = np.arange(math.prod(mesh.values())).reshape(tuple(mesh.values()))
    group = first_group(attributes, ids.size)
    if group is None:
        return 'all'
    split = [axis for axis, size in mesh.items() if size > 1]
    for count in range(1, len(split) + 1):
        for over in itertools.combinations(split, count):
            members = ids[tuple(slice(None) if axis in over else 0 for axis in mesh)]
            if len(group) == members.size and set(group) == set(members.flatten()):
                return 'all' if len(over) == len(split) > 1 else ' x '.join(over)
    return f'{len(group)} devices'


def first_group(attributes: str, devices: int) -> list[int] | None:
    """The first of a collective's groups of devices; None if all devices form one group.

    HLO writes groups in three ways: by names of mesh axes, by the shape of an iota, or as a list.
    """
    named = re.search(
        r'replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?'
        r'\s*\{([^}]*)\}',
        attributes,
    )
    grouped = re.search(
        r'replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', attributes
    )
    listed = re.search(r'replica_groups=\{\{([\d,]+)\}', attributes)
    if named:
        axes = {n: int(s) for n, s in re.findall(r"'(\w+)'=(\d+)", named[1])}
        over = re.findall(r"'(\w+)'", named[4])
        ids = iota(named[2] or str(devices), named[3]).reshape(tuple(axes.values()))
        return ids[tuple(slice(None) if a in over else 0 for a in axes)].flatten().tolist()
    if grouped:
        ids = iota(grouped[3], grouped[4])
        return ids.reshape(int(grouped[1]), int(grouped[2]))[0].tolist()
    if listed:
        return [int(n) for n in listed[1].split(',')]
    return None


def iota(shape: str, order: str | None) -> np.ndarray:
    """The integers from 0 on in a shape ('4,4') whose axes are transposed ('1,0'; None: they stay)."""
    sizes = [int(n) for n in shape.split(',')]
    axes = [int(n) for n in order.split(',')] if order else range(len(sizes))
    return np.arange(math.prod(sizes)).reshape(sizes).transpose(axes)
