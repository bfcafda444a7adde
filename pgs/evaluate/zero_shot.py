"""Zero-shot classification: images against the mean text embedding of each class.

The protocol is clip-benchmark's, which the paper used: CLIP (arXiv 2103.00020, section 3.1.4) with
one ensemble of prompts per class.

Shapes: N images, B images of a batch, C classes, E embedding width.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from pgs.evaluate.context import Context
from pgs.evaluate.data import Task, open_set
from pgs.inference.prompts import SCALE, class_weights
from pgs.utils.console import progress_bar


def ranks_of(logits_NxC: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """The rank of each image's own class, from 0: int (N,).

    Among equal logits the lower class id ranks first; a NaN ranks before everything.
    """
    own_Nx1 = np.take_along_axis(logits_NxC, labels_N[:, None], axis=1)
    lower = np.arange(logits_NxC.shape[1]) < labels_N[:, None]
    return (~(logits_NxC <= own_Nx1) | ((logits_NxC == own_Nx1) & lower)).sum(axis=1)


def accuracy_metrics(
    ranks_N: np.ndarray, labels_N: np.ndarray, num_classes: int
) -> dict[str, float]:
    """acc1, acc5 and mean_per_class_recall of single-label images.

    Args:
      ranks_N: see `ranks_of`.
      labels_N: class ids.
      num_classes: with fewer than 5 classes there is no acc5.

    Returns:
      Shares in [0, 1]. mean_per_class_recall (balanced accuracy) is the mean of acc1 within each
      class, over the classes that occur.
    """
    hit_N = ranks_N == 0
    images_C = np.bincount(labels_N, minlength=num_classes)
    hits_C = np.bincount(labels_N, weights=hit_N, minlength=num_classes)
    metrics = {'acc1': float(hit_N.mean())}
    if num_classes >= 5:
        metrics['acc5'] = float((ranks_N < 5).mean())
    recall = hits_C[images_C > 0] / images_C[images_C > 0]
    return metrics | {'mean_per_class_recall': float(recall.mean())}


def average_precisions(scores_NxC: np.ndarray, targets_NxC: np.ndarray) -> np.ndarray:
    """Average precision of each class: sum of the precision at its positives / max(positives, 1).

    Args:
      scores_NxC: of each image for each class.
      targets_NxC: 1 if the image shows the class, else 0.

    Returns:
      float64 (C,); 0 for a class without positives. Among equal scores the earlier image is first.
    """
    order = np.argsort(-scores_NxC, axis=0, kind='stable')
    truth_NxC = np.take_along_axis(targets_NxC, order, axis=0).astype(np.float64)
    ranks_Nx1 = np.arange(1, len(truth_NxC) + 1)[:, None]
    precision_NxC = truth_NxC.cumsum(axis=0) / ranks_Nx1
    return (precision_NxC * truth_NxC).sum(axis=0) / np.maximum(truth_NxC.sum(axis=0), 1)


def classify(
    batches: Iterable[tuple[np.ndarray, list]], embed_images: Callable, weights_CxE: np.ndarray
) -> dict[str, float]:
    """Metrics of a single-label set in one pass; two numbers per image are held in memory.

    Args:
      batches: (uint8 images (B, height, width, 3), B class ids).
      embed_images: images -> unit float32 (B, E).
      weights_CxE: see class_weights.

    Returns:
      accuracy_metrics, and n, the number of images.
    """
    ranks, labels = [], []
    for images, ids in batches:
        labels.append(np.asarray(ids, np.int64))
        ranks.append(ranks_of(SCALE * embed_images(images) @ weights_CxE.T, labels[-1]))
    ranks_N, labels_N = np.concatenate(ranks), np.concatenate(labels)
    return accuracy_metrics(ranks_N, labels_N, len(weights_CxE)) | {'n': len(labels_N)}


def classify_multilabel(
    batches: Iterable[tuple[np.ndarray, list]], embed_images: Callable, weights_CxE: np.ndarray
) -> dict[str, float]:
    """mean_average_precision of a multilabel set, and n; labels are 0/1 vectors (C,)."""
    pairs = [
        (SCALE * embed_images(images) @ weights_CxE.T, np.stack(labels))
        for images, labels in batches
    ]
    scores_NxC, targets_NxC = (np.concatenate(side) for side in zip(*pairs, strict=True))
    precision = average_precisions(scores_NxC, targets_NxC)
    return {'mean_average_precision': float(precision.mean()), 'n': len(scores_NxC)}


SCORES = {'classification': classify, 'multilabel': classify_multilabel}  # kind of set -> metrics


def open_task(task: str, root: Path) -> Task | str:
    """Opens a single-label or multilabel set; see Protocol.open_task."""
    data = open_set(task, root, tuple(SCORES))
    return data if isinstance(data, str) else Task(task, data.kind, data)


def score_task(task: Task, context: Context) -> dict[str, float]:
    """Metrics of the set's kind, n and n_cut; texts are embedded once per classes and templates."""
    key = tuple(task.data.classnames), tuple(task.data.templates)
    if key not in context.class_weights:
        total = len(key[0]) * len(key[1])
        with progress_bar(None, f'{task.name} prompts', ' prompts', total) as bar:
            context.class_weights[key] = class_weights(context.embed_texts, *key, notify=bar.update)
    metrics = SCORES[task.kind](
        context.batches(task.data), context.embedder.images, context.class_weights[key]
    )
    return metrics | {'n_cut': context.n_cut}
