"""The paper's published figures, in percent, and the task of pgs.evaluate behind each of them.

Pei et al., Seeing What Matters: Empowering CLIP with Patch Generation-to-Selection, CVPR 2025,
arXiv 2503.17080. Every row is a ViT-B/16 trained on CC12M for 32 epochs.

The published rows follow the order of the tasks in pgs.evaluate.tasks.GROUPS.
"""

from typing import NamedTuple

from pgs.evaluate.tasks import GROUPS


class Column(NamedTuple):
    """One column of a table.

    Attributes:
      heading: words; the terminal puts each word on its own line.
      tasks: names as in results.json; a mean has all the tasks that it averages.
      metric: key among the tasks' metrics, a share in [0, 1].
      is_mean: True where the paper gives the mean of other columns.
    """

    heading: str
    tasks: tuple[str, ...]
    metric: str
    is_mean: bool = False


class Table(NamedTuple):
    """A table of the paper.

    Attributes:
      title: names the protocol and the metric.
      columns: from left to right.
      rows: method -> its published figures in percent, one for each column.
    """

    title: str
    columns: tuple[Column, ...]
    rows: dict[str, tuple[float, ...]]


# Training time relative to the unmasked CLIP (the paper's R.T.T.).
RELATIVE_TRAINING_TIME = {
    'CLIP': 1.0,
    'FLIP': 0.5,
    'A-CLIP': 1.1,
    'E-CLIP': 0.6,
    'PGS-0.5': 0.5,
    'PGS-0.3': 0.6,
}

# fmt: off
CLASSIFICATION_HEADINGS = (
    'Food101', 'CIFAR10', 'CIFAR100', 'SUN397', 'Cars', 'VOC2007', 'Aircraft', 'DTD', 'Pets',
    'Caltech101', 'Flowers', 'STL10', 'EuroSAT', 'RESISC45', 'GTSRB', 'Country211', 'PCam',
)
# fmt: on
ROBUSTNESS_HEADINGS = ('IN-1K', 'IN-V2', 'IN-A', 'IN-R', 'IN-O', 'IN-Sketch')
RETRIEVAL_HEADINGS = ('COCO', 'Flickr8k', 'Flickr30k')
PROBE_HEADINGS = ('CIFAR10', 'CIFAR100', 'ImageNet-1K')


def accuracy_columns(
    group: str, headings: tuple[str, ...], metric: str = 'acc1'
) -> tuple[Column, ...]:
    """One column for each task of a group."""
    return tuple(
        Column(heading, (task,), metric)
        for heading, task in zip(headings, GROUPS[group], strict=True)
    )


def mean(heading: str, columns: tuple[Column, ...]) -> Column:
    """The column that averages other columns, which share a metric."""
    tasks = tuple(task for column in columns for task in column.tasks)
    return Column(heading, tasks, columns[0].metric, is_mean=True)


def mean_of_kind(heading: str, kind: str) -> Column:
    """The mean of SugarCrepe's subsets of one kind: 'obj', 'att' or 'rel'."""
    return mean(heading, tuple(c for c in sugar_crepe if c.heading.endswith(kind)))


classification = accuracy_columns('classification', CLASSIFICATION_HEADINGS)
robustness = accuracy_columns('robustness', ROBUSTNESS_HEADINGS)
sugar_crepe = accuracy_columns(
    'sugar_crepe',
    tuple(task.partition('/')[2].replace('_', ' ') for task in GROUPS['sugar_crepe']),
    'acc',
)

# fmt: off
CLASSIFICATION = Table(
    'Zero-shot classification, top-1',
    (*classification, mean('mean', classification)),
    {
        'CLIP': (
            42.3, 57.7, 25.0, 44.1, 17.0, 50.5, 1.7, 16.5, 53.9,
            73.5, 26.0, 82.0, 18.7, 26.5, 9.4, 4.5, 48.0, 35.1,
        ),
        'FLIP': (
            39.9, 52.8, 24.5, 42.8, 15.9, 46.6, 1.4, 15.9, 46.0,
            70.4, 25.3, 80.2, 17.0, 25.8, 5.6, 4.0, 47.1, 33.0,
        ),
        'A-CLIP': (
            41.8, 61.6, 27.1, 46.6, 16.0, 51.1, 1.3, 17.1, 51.2,
            73.5, 25.7, 85.8, 20.5, 29.1, 8.0, 4.2, 50.1, 35.9,
        ),
        'E-CLIP': (
            42.1, 70.7, 32.0, 43.9, 15.1, 43.6, 2.2, 17.0, 55.4,
            73.7, 28.4, 85.6, 22.9, 30.0, 9.6, 4.7, 50.0, 36.9,
        ),
        'PGS-0.5': (
            42.8, 62.5, 35.5, 45.5, 17.3, 50.0, 1.9, 17.4, 55.7,
            71.8, 33.2, 88.2, 20.5, 31.8, 10.1, 4.7, 50.0, 37.6,
        ),
        'PGS-0.3': (
            46.5, 73.5, 37.3, 47.5, 19.9, 55.1, 3.1, 19.8, 58.1,
            72.7, 30.7, 88.2, 22.8, 30.4, 10.9, 4.5, 50.8, 39.5,
        ),
    },
)

# Text retrieval finds captions by their image, image retrieval finds images by their caption.
RETRIEVAL = Table(
    'Zero-shot retrieval, recall at 1, 5 and 10',
    tuple(
        Column(f'{heading} {target} R@{k}', (task,), f'{target}_retrieval_recall@{k}')
        for target in ('text', 'image')
        for heading, task in zip(RETRIEVAL_HEADINGS, GROUPS['retrieval'], strict=True)
        for k in (1, 5, 10)
    ),
    {
        'CLIP': (
            34.6, 62.0, 72.7, 55.7, 81.6, 89.9, 58.5, 83.8, 89.1,
            23.5, 47.8, 59.7, 40.5, 68.9, 80.2, 43.2, 70.4, 80.4,
        ),
        'FLIP': (
            32.6, 59.1, 70.6, 55.0, 80.9, 88.9, 53.8, 80.8, 88.5,
            22.6, 46.1, 58.1, 40.3, 68.1, 78.6, 41.5, 67.9, 77.5,
        ),
        'A-CLIP': (
            33.7, 60.2, 71.0, 53.7, 80.1, 88.0, 55.3, 81.4, 87.6,
            23.9, 48.3, 60.0, 40.6, 68.9, 78.9, 43.1, 70.1, 78.8,
        ),
        'E-CLIP': (
            34.3, 62.0, 73.3, 57.0, 82.7, 90.1, 55.8, 84.2, 89.6,
            23.8, 48.2, 59.8, 42.0, 69.4, 79.6, 43.3, 70.9, 80.2,
        ),
        'PGS-0.5': (
            35.2, 61.9, 72.8, 58.5, 83.6, 90.6, 57.7, 82.7, 90.4,
            24.3, 48.8, 60.5, 43.5, 70.7, 81.0, 45.3, 72.9, 81.2,
        ),
        'PGS-0.3': (
            36.0, 64.4, 74.6, 58.3, 82.9, 90.8, 59.9, 83.5, 90.8,
            25.1, 49.5, 61.6, 44.4, 71.7, 81.1, 47.1, 73.5, 82.0,
        ),
    },
)

LINEAR_PROBE = Table(
    'Linear probe, top-1',
    accuracy_columns('linear_probe', PROBE_HEADINGS),
    {
        'CLIP': (88.0, 67.4, 62.3),
        'FLIP': (85.9, 65.5, 61.3),
        'A-CLIP': (86.4, 66.1, 62.0),
        'E-CLIP': (89.0, 69.7, 62.7),
        'PGS-0.5': (89.5, 70.3, 64.2),
        'PGS-0.3': (90.0, 72.3, 64.4),
    },
)

# Two published OOD means differ from the mean of the row's five figures: CLIP's figures average
# 29.9 and not 29.0, A-CLIP's average 29.3 and not 30.3. The table gives them as published.
ROBUSTNESS = Table(
    'Robustness, zero-shot top-1',
    (*robustness, mean('all mean', robustness), mean('OOD mean', robustness[1:])),
    {
        'CLIP': (36.1, 30.7, 8.0, 47.6, 38.4, 24.9, 31.0, 29.0),
        'FLIP': (34.4, 29.5, 7.1, 41.4, 39.5, 20.1, 28.7, 27.5),
        'A-CLIP': (35.2, 30.1, 8.1, 45.1, 39.4, 23.7, 30.3, 30.3),
        'E-CLIP': (36.3, 30.7, 8.1, 47.9, 39.6, 25.4, 31.3, 30.3),
        'PGS-0.5': (38.0, 32.6, 9.1, 45.1, 41.1, 23.9, 31.6, 30.4),
        'PGS-0.3': (38.6, 33.1, 9.6, 48.1, 42.6, 25.6, 32.9, 31.8),
    },
)

# Three published means differ from the mean of the row's figures. Objects: CLIP's figures average
# 73.9 and not 73.7, A-CLIP's average 70.2 and not 71.6. Attributes: E-CLIP's average 67.9 and not
# 68.4. The table gives them as published.
SUGAR_CREPE = Table(
    'SugarCrepe (compositionality), accuracy',
    (
        *sugar_crepe,
        mean_of_kind('object mean', 'obj'),
        mean_of_kind('attribute mean', 'att'),
        mean_of_kind('relation mean', 'rel'),
    ),
    {
        'CLIP': (85.8, 79.2, 64.5, 61.8, 58.7, 74.2, 68.4, 73.7, 68.8, 64.5),
        'FLIP': (84.1, 75.9, 66.0, 60.2, 61.6, 71.7, 63.2, 72.0, 66.9, 66.0),
        'A-CLIP': (86.6, 75.5, 63.2, 52.4, 63.1, 71.6, 66.8, 71.6, 68.4, 63.2),
        'E-CLIP': (86.9, 73.5, 60.2, 59.4, 63.4, 73.3, 66.8, 73.2, 68.4, 60.2),
        'PGS-0.5': (86.0, 77.0, 64.6, 63.3, 65.5, 77.3, 69.8, 75.5, 70.8, 64.6),
        'PGS-0.3': (88.1, 76.0, 67.9, 64.1, 66.5, 74.2, 69.9, 75.5, 70.8, 67.9),
    },
)
# fmt: on

TABLES = (CLASSIFICATION, RETRIEVAL, LINEAR_PROBE, ROBUSTNESS, SUGAR_CREPE)
