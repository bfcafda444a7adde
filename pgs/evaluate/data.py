"""A task with its data opened, and how the test split of a set is found."""

import difflib
from pathlib import Path
from typing import NamedTuple

from input_pipeline import eval_sets
from input_pipeline.eval_sets import LabelledImages
from pgs.errors import UserError
from pgs.evaluate.tasks import SETS, location_of


class Task(NamedTuple):
    """A task with its data opened; images are not read yet.

    Attributes:
      name: '<protocol>/<set>'.
      kind: 'classification', 'multilabel', 'retrieval', 'linear_probe' or 'sugar_crepe'.
      data: test split.
      train, validation: the other splits of a linear probe; validation is optional.
    """

    name: str
    kind: str
    data: LabelledImages
    train: LabelledImages | None = None
    validation: LabelledImages | None = None

    @property
    def protocol(self) -> str:
        return self.name.split('/')[0]

    @property
    def set_name(self) -> str:
        return self.name.split('/')[1]


def open_set(task: str, root: Path, kinds: tuple[str, ...]) -> LabelledImages | str:
    """Opens the test split of a task's set: tars in CLIP-benchmark's layout, otherwise TFDS.

    Args:
      task: '<protocol>/<set>'.
      root: folder with one folder per set, or with TFDS sets.
      kinds: of set that the protocol can use; a TFDS set is one for classification.

    Returns:
      The split; if it is absent, a line that says where to put it.

    Raises:
      UserError: a set of another kind, or a folder that lacks a file.
    """
    protocol, name = task.split('/')
    folder, in_tfds = location_of(name)
    data = eval_sets.open_tars(root, folder, 'test')
    if data is None and in_tfds and 'classification' in kinds:
        data = eval_sets.open_tfds(root, *in_tfds)
    if data is None:
        hint = f' (or the TFDS set {in_tfds[0]}, prepared there)' if in_tfds else ''
        if name not in SETS and (near := difflib.get_close_matches(name, SETS, n=1)):
            hint = f'; did you mean {protocol}/{near[0]}?'
        return f"{root / folder}, with test/, in CLIP-benchmark's layout{hint}"
    if data.kind not in kinds:
        raise UserError(
            f'{task}: {data.origin} is a {data.kind} set, not a {" or ".join(kinds)} set'
        )
    return data
