"""The evaluation sets and tasks of the paper's tables, by group, and where each set is stored.

A task is '<protocol>/<set>'. A set that is not listed here is named by its folder.
"""

import difflib
from collections.abc import Sequence
from typing import NamedTuple

from pgs.errors import UserError


class Location(NamedTuple):
    """Where a set is stored.

    Attributes:
      folder: in CLIP-benchmark's layout, under the data root.
      tfds: (name in TFDS, test split), or None if TFDS does not have the set.
    """

    folder: str
    tfds: tuple[str, str] | None = None


CLASSIFICATION_SETS = {
    'food101': Location('food101', ('food101', 'validation')),
    'cifar10': Location('vtab-cifar10', ('cifar10', 'test')),
    'cifar100': Location('vtab-cifar100', ('cifar100', 'test')),
    'sun397': Location('sun397', ('sun397', 'test')),
    'cars': Location('cars', ('cars196', 'test')),
    'voc2007': Location('voc2007'),
    'fgvc_aircraft': Location('fgvc_aircraft'),
    'dtd': Location('vtab-dtd', ('dtd', 'test')),
    'pets': Location('vtab-pets', ('oxford_iiit_pet', 'test')),
    'caltech101': Location('vtab-caltech101', ('caltech101', 'test')),
    'flowers': Location('vtab-flowers', ('oxford_flowers102', 'test')),
    'stl10': Location('stl10', ('stl10', 'test')),
    # TFDS has no test split of these two. VTAB (arXiv 1910.04867), whose splits CLIP-benchmark
    # uses, tests on the last fifth.
    'eurosat': Location('vtab-eurosat', ('eurosat', 'train[80%:]')),
    'resisc45': Location('vtab-resisc45', ('resisc45', 'train[80%:]')),
    'gtsrb': Location('gtsrb'),
    'country211': Location('country211'),
    'pcam': Location('vtab-pcam', ('patch_camelyon', 'test')),
}
ROBUSTNESS_SETS = {
    'imagenet1k': Location('imagenet1k', ('imagenet2012', 'validation')),
    'imagenetv2': Location('imagenetv2', ('imagenet_v2', 'test')),
    'imagenet-a': Location('imagenet-a', ('imagenet_a', 'test')),
    'imagenet-r': Location('imagenet-r', ('imagenet_r', 'test')),
    'imagenet-o': Location('imagenet-o'),
    'imagenet_sketch': Location('imagenet_sketch', ('imagenet_sketch', 'test')),
}
RETRIEVAL_SETS = {name: Location(name) for name in ('mscoco_captions', 'flickr8k', 'flickr30k')}
LINEAR_PROBE_SETS = ('cifar10', 'cifar100', 'imagenet1k')
SUGAR_CREPE_SUBSETS = (
    'replace_obj',
    'replace_att',
    'replace_rel',
    'swap_obj',
    'swap_att',
    'add_obj',
    'add_att',
)
SETS = CLASSIFICATION_SETS | ROBUSTNESS_SETS | RETRIEVAL_SETS

GROUPS = {
    'classification': [f'zeroshot/{name}' for name in CLASSIFICATION_SETS],
    'robustness': [f'zeroshot/{name}' for name in ROBUSTNESS_SETS],
    'retrieval': [f'retrieval/{name}' for name in RETRIEVAL_SETS],
    'linear_probe': [f'linear_probe/{name}' for name in LINEAR_PROBE_SETS],
    'sugar_crepe': [f'sugar_crepe/{subset}' for subset in SUGAR_CREPE_SUBSETS],
}
GROUPS['paper'] = [task for tasks in list(GROUPS.values()) for task in tasks]
PROTOCOLS = tuple(
    dict.fromkeys(task.split('/')[0] for task in GROUPS['paper'])
)  # see run.PROTOCOLS


def expand(names: Sequence[str]) -> list[str]:
    """The tasks of a list of tasks and groups, each once, in the order given.

    Raises:
      UserError: an empty list, or a name that is neither a task nor a group.
    """
    tasks: dict[str, None] = {}
    for name in names:
        protocol, slash, rest = name.partition('/')
        if name in GROUPS:
            tasks |= dict.fromkeys(GROUPS[name])
        elif slash and rest and protocol in PROTOCOLS and '/' not in rest:
            tasks[name] = None
        else:
            near = difflib.get_close_matches(name, [*GROUPS, *GROUPS['paper']], n=1)
            hint = f'did you mean {near[0]}? ' if near else ''
            raise UserError(
                f'no task {name!r}: {hint}give groups ({", ".join(GROUPS)}) or tasks '
                f'({", ".join(f"{p}/SET" for p in PROTOCOLS)})'
            )
    if not tasks:
        raise UserError(f'no task given: groups are {", ".join(GROUPS)}')
    return list(tasks)


def location_of(name: str) -> Location:
    """Where a set is stored: by SETS, otherwise a folder of the set's name."""
    return SETS.get(name, Location(name))
