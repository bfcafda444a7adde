"""Linear probe: a linear layer on frozen, L2-normalised image features.

clip-benchmark's protocol, which the paper used: AdamW at learning rate 0.1, cosine schedule to 0,
10 epochs of batches of 512. With a validation split, the weight decay is searched as in CLIP (arXiv
2103.00020, A.3), coarse to fine, and the final layer is trained on both splits. Without one, the
weight decay is 0.

Shapes: N images, E embedding width, C classes, S steps, B images of a batch.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from input_pipeline import eval_sets
from input_pipeline.eval_sets import LabelledImages
from pgs.evaluate.context import Context, Features
from pgs.evaluate.data import Task, open_set
from pgs.evaluate.tasks import location_of
from pgs.evaluate.zero_shot import accuracy_metrics, ranks_of
from pgs.utils.console import progress_bar

LEARNING_RATE, EPOCHS, BATCH = 0.1, 10, 512
DECAYS = np.logspace(-6, 2, 97)  # the grid of weight decays
COARSE = range(0, 97, 16)  # indices that are tried first
FINE = (8, 4, 2, 1)  # then at these distances from the best so far
MAX_TRIALS = len(COARSE) + 2 * len(FINE)
VALIDATION_SPLITS = ('val', 'validation')
Array = jax.Array | np.ndarray


def initial_probe(seed: int, width: int, num_classes: int) -> dict[str, jax.Array]:
    """Kernel (E, C) and bias (C,), uniform within 1 / sqrt(E), as PyTorch's linear layer.

    Args:
      seed: of the random numbers.
      width: E.
      num_classes: C.
    """
    bound = width**-0.5
    kernel_key, bias_key = jax.random.split(jax.random.key(seed))
    return {
        'kernel': jax.random.uniform(kernel_key, (width, num_classes), minval=-bound, maxval=bound),
        'bias': jax.random.uniform(bias_key, (num_classes,), minval=-bound, maxval=bound),
    }


def batch_order(seed: int, count: int, epochs: int, batch_size: int) -> np.ndarray:
    """Sample ids of every batch, int32 (S, B); -1 pads the last batch of an epoch.

    Args:
      seed: of the random order.
      count: number of samples.
      epochs: each visits every sample once.
      batch_size: B.
    """
    rng = np.random.default_rng(seed)
    short = -count % batch_size
    orders = [np.pad(rng.permutation(count), (0, short), constant_values=-1) for _ in range(epochs)]
    return np.concatenate(orders).reshape(-1, batch_size).astype(np.int32)


@functools.partial(jax.jit, static_argnames='learning_rate')
def fit_probe(
    probe: dict[str, jax.Array],
    features_NxE: Array,
    labels_N: Array,
    order_SxB: Array,
    weight_decay: float,
    learning_rate: float = LEARNING_RATE,
) -> dict[str, jax.Array]:
    """Trains the layer in one scan over all batches.

    Args:
      probe: see initial_probe.
      features_NxE: unit float32.
      labels_N: class ids.
      order_SxB: see batch_order.
      weight_decay: scalar, for kernel and bias; traced, so that a search compiles once.
      learning_rate: at the first step; it falls to 0 along half a cosine.

    Returns:
      The trained layer.
    """
    steps = order_SxB.shape[0]

    def schedule(step):
        return 0.5 * learning_rate * (1.0 + jnp.cos(jnp.pi * step / steps))

    optimizer = optax.adamw(schedule, weight_decay=weight_decay)

    def loss(probe, ids_B):
        real_B = ids_B >= 0
        logits_BxC = features_NxE[ids_B] @ probe['kernel'] + probe['bias']
        losses_B = optax.softmax_cross_entropy_with_integer_labels(logits_BxC, labels_N[ids_B])
        return jnp.where(real_B, losses_B, 0.0).sum() / real_B.sum()

    def step(carry, ids_B):
        probe, state = carry
        updates, state = optimizer.update(jax.grad(loss)(probe, ids_B), state, probe)
        return (optax.apply_updates(probe, updates), state), None

    (probe, _), _ = jax.lax.scan(step, (probe, optimizer.init(probe)), order_SxB)
    return probe


def probe_metrics(
    probe: dict[str, jax.Array], features_NxE: np.ndarray, labels_N: np.ndarray
) -> dict[str, float]:
    """accuracy_metrics of a trained layer."""
    kernel, bias = np.asarray(probe['kernel']), np.asarray(probe['bias'])
    ranks = [
        ranks_of(features_NxE[s : s + 8192] @ kernel + bias, labels_N[s : s + 8192])
        for s in range(0, len(labels_N), 8192)
    ]
    return accuracy_metrics(np.concatenate(ranks), labels_N, len(bias))


def search(accuracy_of: Callable[[int], float]) -> int:
    """Index in DECAYS of the best weight decay: every 16th, then ever closer to the best so far.

    Args:
      accuracy_of: index in DECAYS -> accuracy on the validation split; called once per index.
    """
    known = functools.cache(accuracy_of)
    best = max(COARSE, key=known)
    for span in FINE:
        left, right = max(best - span, 0), min(best + span, len(DECAYS) - 1)
        best = max((left, best, right), key=known)
    return best


def join(*parts: Features) -> Features:
    """Features and labels of several parts, one after the other."""
    features, labels = zip(*parts, strict=True)
    return np.concatenate(features), np.concatenate(labels)


def linear_probe(
    train: Features,
    test: Features,
    validation: Features | None,
    num_classes: int,
    *,
    seed: int = 0,
    epochs: int = EPOCHS,
    batch_size: int = BATCH,
    notify: Callable[[float], object] = lambda decay: None,
) -> dict[str, float]:
    """Trains and scores a linear probe.

    Args:
      train, test, validation: unit float32 features (N, E) and int class ids (N,).
      num_classes: C.
      seed: of the initial layer and the order of the samples.
      epochs, batch_size: of the protocol.
      notify: called with each weight decay that is tried.

    Returns:
      acc1, acc5 (with at least 5 classes), mean_per_class_recall, weight_decay, n (test images).
    """

    def fit(features_NxE: Array, labels_N: Array, decay: float) -> dict[str, jax.Array]:
        order = batch_order(seed, len(labels_N), epochs, batch_size)
        start = initial_probe(seed, features_NxE.shape[1], num_classes)
        return fit_probe(start, features_NxE, labels_N, order, decay)

    decay, data = 0.0, train
    if validation is not None:
        features, labels = jax.device_put(train)

        def accuracy_of(index: int) -> float:
            notify(DECAYS[index])
            return probe_metrics(fit(features, labels, DECAYS[index]), *validation)['acc1']

        decay = float(DECAYS[search(accuracy_of)])
        data = join(train, validation)
    probe = fit(*data, decay)
    return probe_metrics(probe, *test) | {'weight_decay': decay, 'n': len(test[1])}


def open_task(task: str, root: Path) -> Task | str:
    """Opens the splits of a single-label set; see Protocol.open_task."""
    data = open_set(task, root, ('classification',))
    if isinstance(data, str):
        return data
    folder, in_tfds = location_of(task.split('/')[1])
    validation = None
    if in_tfds and data.origin.startswith('TFDS'):
        train = eval_sets.open_tfds(root, in_tfds[0], 'train')
    else:
        train = eval_sets.open_tars(root, folder, 'train')
        held_out = (eval_sets.open_tars(root, folder, split) for split in VALIDATION_SPLITS)
        validation = next((split for split in held_out if split is not None), None)
    if train is None:
        return f'{root / folder}/train: a linear probe trains on it'
    return Task(task, 'linear_probe', data, train, validation)


def score_task(task: Task, context: Context) -> dict[str, float]:
    """Metrics of a probe on the features of the set, see linear_probe; features are cached."""

    def features_of(split: str, data: LabelledImages) -> Features:
        return context.feature_cache(
            split,
            lambda: join(
                *(
                    (context.embedder.images(images), np.asarray(labels))
                    for images, labels in context.batches(data, f'{split} images')
                )
            ),
        )

    assert task.train is not None  # by open_task
    train, test = features_of('train', task.train), features_of('test', task.data)
    validation = features_of('validation', task.validation) if task.validation else None
    with progress_bar(None, f'{task.name} weight decays', ' tried', MAX_TRIALS) as bar:
        return linear_probe(
            train,
            test,
            validation,
            len(task.data.classnames),
            notify=lambda decay: bar.update(),
        )
