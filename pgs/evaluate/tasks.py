"""Which sets the paper's tables need, and where each lies.

A task is '<protocol>/<set>'. A set outside these tables is named by its folder.
"""

import difflib

from pgs.errors import UserError
from pgs.evaluate.sugar_crepe import SUBSETS

PROTOCOLS = ('zeroshot', 'retrieval', 'linear_probe', 'sugar_crepe')

# set: folder in CLIP-benchmark's layout; (TFDS name, test split) where TFDS has the set. EuroSAT and
# RESISC45 come unsplit there: VTAB (arXiv 1910.04867), whose splits CLIP-benchmark uses, tests on
# the last fifth.
SETS = {
    # --- the 17 of the classification table ---
    'food101': ('food101', ('food101', 'validation')),
    'cifar10': ('vtab-cifar10', ('cifar10', 'test')),
    'cifar100': ('vtab-cifar100', ('cifar100', 'test')),
    'sun397': ('sun397', ('sun397', 'test')),
    'cars': ('cars', ('cars196', 'test')),
    'voc2007': ('voc2007', None),
    'fgvc_aircraft': ('fgvc_aircraft', None),
    'dtd': ('vtab-dtd', ('dtd', 'test')),
    'pets': ('vtab-pets', ('oxford_iiit_pet', 'test')),
    'caltech101': ('vtab-caltech101', ('caltech101', 'test')),
    'flowers': ('vtab-flowers', ('oxford_flowers102', 'test')),
    'stl10': ('stl10', ('stl10', 'test')),
    'eurosat': ('vtab-eurosat', ('eurosat', 'train[80%:]')),
    'resisc45': ('vtab-resisc45', ('resisc45', 'train[80%:]')),
    'gtsrb': ('gtsrb', None),
    'country211': ('country211', None),
    'pcam': ('vtab-pcam', ('patch_camelyon', 'test')),
    # --- the 6 of the robustness table ---
    'imagenet1k': ('imagenet1k', ('imagenet2012', 'validation')),
    'imagenetv2': ('imagenetv2', ('imagenet_v2', 'test')),
    'imagenet-a': ('imagenet-a', ('imagenet_a', 'test')),
    'imagenet-r': ('imagenet-r', ('imagenet_r', 'test')),
    'imagenet-o': ('imagenet-o', None),
    'imagenet_sketch': ('imagenet_sketch', ('imagenet_sketch', 'test')),
    # --- the 3 of the retrieval table ---
    'mscoco_captions': ('mscoco_captions', None),
    'flickr8k': ('flickr8k', None),
    'flickr30k': ('flickr30k', None),
}  # fmt: skip
NAMES = list(SETS)
GROUPS = {
    'classification': [f'zeroshot/{name}' for name in NAMES[:17]],
    'robustness': [f'zeroshot/{name}' for name in NAMES[17:23]],
    'retrieval': [f'retrieval/{name}' for name in NAMES[23:]],
    'linear_probe': [f'linear_probe/{name}' for name in ('cifar10', 'cifar100', 'imagenet1k')],
    'sugar_crepe': [f'sugar_crepe/{subset}' for subset in SUBSETS],
}
GROUPS['paper'] = [task for tasks in list(GROUPS.values()) for task in tasks]


def expand(names: list[str] | tuple[str, ...]) -> list[str]:
    """Tasks of a list of tasks and groups, each once, in the order given.

    Raises:
      UserError: an empty list, or a name that is neither.
    """
    tasks = {}
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


def place_of(name: str) -> tuple[str, tuple[str, str] | None]:
    """(folder under the data root, TFDS name and test split or None) of a set."""
    return SETS.get(name, (name, None))
