"""Zero-shot classification: images against the mean text embedding of each class.

The protocol is clip-benchmark's, which the paper used: CLIP (arXiv 2103.00020, section 3.1.4) with
one ensemble of prompts a class.
"""

from collections.abc import Callable, Iterable

import numpy as np

from pgs.inference.prompts import SCALE


def ranks_of(logits_NxC: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """How many classes come before an image's own: int (N,).

    Of equal logits the lower id comes first; a logit that is not a number comes before all.
    """
    own_Nx1 = np.take_along_axis(logits_NxC, labels_N[:, None], axis=1)
    lower = np.arange(logits_NxC.shape[1]) < labels_N[:, None]
    return (~(logits_NxC <= own_Nx1) | ((logits_NxC == own_Nx1) & lower)).sum(axis=1)


def accuracy_metrics(ranks_N: np.ndarray, labels_N: np.ndarray, num_classes: int) -> dict:
    """acc1, acc5 and mean_per_class_recall of single-label images.

    Args:
      ranks_N: of each image's own class, `ranks_of`.
      labels_N: class ids.
      num_classes: below 5 there is no acc5.

    Returns:
      Shares in [0, 1]. mean_per_class_recall is the mean, over the classes that occur, of acc1
      within the class: balanced accuracy.
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
    """AP of each class: sum of precision at its positives over max(positives, 1).

    Args:
      scores_NxC: of each image for each class.
      targets_NxC: 1 where the image shows the class, else 0.

    Returns:
      float64 (C,); 0 for a class without positives. Of equal scores the earlier image comes first.
    """
    order = np.argsort(-scores_NxC, axis=0, kind='stable')
    truth_NxC = np.take_along_axis(targets_NxC, order, axis=0).astype(np.float64)
    places_Nx1 = np.arange(1, len(truth_NxC) + 1)[:, None]
    precision_NxC = truth_NxC.cumsum(axis=0) / places_Nx1
    return (precision_NxC * truth_NxC).sum(axis=0) / np.maximum(truth_NxC.sum(axis=0), 1)


def classify(
    batches: Iterable[tuple[np.ndarray, list]], embed_images: Callable, weights_CxE: np.ndarray
) -> dict:
    """Metrics of a single-label set in one pass; per image two numbers are kept.

    Args:
      batches: (uint8 images (b, H, W, 3), b class ids).
      embed_images: images -> unit float32 (b, E).
      weights_CxE: class_weights.

    Returns:
      accuracy_metrics, and n, the number of images.
    """
    ranks, labels = [], []
    for images, ids in batches:
        ids = np.asarray(ids, np.int64)
        ranks.append(ranks_of(SCALE * embed_images(images) @ weights_CxE.T, ids))
        labels.append(ids)
    ranks_N, labels_N = np.concatenate(ranks), np.concatenate(labels)
    return accuracy_metrics(ranks_N, labels_N, len(weights_CxE)) | {'n': len(labels_N)}


def classify_multilabel(
    batches: Iterable[tuple[np.ndarray, list]], embed_images: Callable, weights_CxE: np.ndarray
) -> dict:
    """mean_average_precision of a multilabel set, and n; labels are 0/1 vectors (C,)."""
    pairs = [
        (SCALE * embed_images(images) @ weights_CxE.T, np.stack(labels))
        for images, labels in batches
    ]
    scores_NxC, targets_NxC = (np.concatenate(side) for side in zip(*pairs, strict=True))
    precision = average_precisions(scores_NxC, targets_NxC)
    return {'mean_average_precision': float(precision.mean()), 'n': len(scores_NxC)}
