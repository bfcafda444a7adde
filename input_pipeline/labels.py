"""Labels of evaluation sets: what a label file holds, by the kind of the set."""

import io

import numpy as np

EXTENSIONS = {'classification': 'cls', 'multilabel': 'npy', 'retrieval': 'txt'}  # by kind

# Class id (classification), vector of 0 and 1 over the classes (multilabel), captions (retrieval).
Label = int | np.ndarray | list[str]


def read_label(kind: str, content: bytes, num_classes: int) -> Label:
    """The label of a sample from the content of its file.

    Raises:
      ValueError: content that is not a label of this kind.
    """
    if kind == 'retrieval':
        captions = [line for line in content.decode('utf-8').splitlines() if line.strip()]
        if not captions:
            raise ValueError('no caption: it must hold at least one, one per line')
        return captions
    if kind == 'multilabel':
        try:
            labels_C = np.load(io.BytesIO(content), allow_pickle=False)
        except Exception as error:  # bad bytes raise many types of errors
            raise ValueError('not a plain array; pickled ones are never loaded') from error
        numbers = labels_C.dtype.kind in 'biuf'  # others cannot be compared with numbers
        if labels_C.shape != (num_classes,) or not numbers or not np.isin(labels_C, (0, 1)).all():
            raise ValueError(f'it must hold 0 or 1 for each of the {num_classes} classes')
        return labels_C
    class_id = int(content)
    if not 0 <= class_id < num_classes:
        raise ValueError(f'class id {class_id}, but {num_classes} classes, numbered from 0')
    return class_id
