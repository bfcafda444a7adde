"""Linear probe: a linear layer on frozen, L2-normalised image features.

clip-benchmark's protocol, which the paper used: AdamW at 0.1, cosine to 0, 10 epochs of batches of
512. With a validation split the weight decay is searched as CLIP did (arXiv 2103.00020, A.3),
coarse to fine, and the final layer is trained on both splits; without one it is 0.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pgs.evaluate.zero_shot import accuracy_metrics, ranks_of

LEARNING_RATE, EPOCHS, BATCH = 0.1, 10, 512
DECAYS = np.logspace(-6, 2, 97)  # the grid of the search
COARSE = range(0, 97, 16)  # where it begins
FINE = (8, 4, 2, 1)  # steps around the best so far
MOST_TRIALS = len(COARSE) + 2 * len(FINE)


def initial_probe(seed: int, width: int, num_classes: int) -> dict[str, jax.Array]:
    """Kernel (width, C) and bias (C,), uniform within 1 / sqrt(width), as PyTorch's linear layer."""
    bound = width**-0.5
    kernel_key, bias_key = jax.random.split(jax.random.key(seed))
    return {
        'kernel': jax.random.uniform(kernel_key, (width, num_classes), minval=-bound, maxval=bound),
        'bias': jax.random.uniform(bias_key, (num_classes,), minval=-bound, maxval=bound),
    }


def batch_order(seed: int, count: int, epochs: int, batch_size: int) -> np.ndarray:
    """Sample ids of every batch, int (epochs * batches, batch_size); -1 fills an epoch's last."""
    rng = np.random.default_rng(seed)
    short = -count % batch_size
    epochs = [np.pad(rng.permutation(count), (0, short), constant_values=-1) for _ in range(epochs)]
    return np.concatenate(epochs).reshape(-1, batch_size).astype(np.int32)


@functools.partial(jax.jit, static_argnames='learning_rate')
def fit_probe(
    probe: dict,
    features_NxE: jax.Array,
    labels_N: jax.Array,
    order_SxB: jax.Array,
    weight_decay: jax.Array,
    learning_rate: float = LEARNING_RATE,
) -> dict[str, jax.Array]:
    """Trains the layer in one scan over all batches.

    Args:
      probe: initial_probe.
      features_NxE: unit float32.
      labels_N: class ids.
      order_SxB: batch_order.
      weight_decay: scalar, on kernel and bias; traced, so that a search compiles once.
      learning_rate: at the first step; half a cosine takes it to 0.

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


def probe_metrics(probe: dict, features_NxE: np.ndarray, labels_N: np.ndarray) -> dict:
    """accuracy_metrics of a trained layer."""
    kernel, bias = np.asarray(probe['kernel']), np.asarray(probe['bias'])
    ranks = [
        ranks_of(features_NxE[s : s + 8192] @ kernel + bias, labels_N[s : s + 8192])
        for s in range(0, len(labels_N), 8192)
    ]
    return accuracy_metrics(np.concatenate(ranks), labels_N, len(bias))


def search(accuracy_of: Callable[[int], float]) -> int:
    """Index in DECAYS of the best weight decay: every 16th, then closer and closer around the best.

    Args:
      accuracy_of: index in DECAYS -> accuracy on the validation split; called once an index.
    """
    known = functools.cache(accuracy_of)
    best = max(COARSE, key=known)
    for span in FINE:
        left, right = max(best - span, 0), min(best + span, len(DECAYS) - 1)
        best = max((left, best, right), key=known)
    return best


def linear_probe(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray] | None,
    num_classes: int,
    *,
    seed: int = 0,
    epochs: int = EPOCHS,
    batch_size: int = BATCH,
    notify: Callable[[float], object] = lambda decay: None,
) -> dict:
    """Trains and scores a linear probe.

    Args:
      train, test, validation: unit float32 features (N, E) and int class ids (N,).
      num_classes: C.
      seed: of the initial layer and the order of the samples.
      epochs, batch_size: of the protocol.
      notify: called with each weight decay that is tried.

    Returns:
      acc1, acc5 (from 5 classes on), mean_per_class_recall, weight_decay, n (test images).
    """

    def fit(features_NxE, labels_N, decay):
        order = batch_order(seed, len(labels_N), epochs, batch_size)
        start = initial_probe(seed, features_NxE.shape[1], num_classes)
        return fit_probe(start, features_NxE, labels_N, order, decay)

    decay, data = 0.0, train
    if validation is not None:
        on_device = jax.device_put(train)

        def accuracy_of(index: int) -> float:
            notify(DECAYS[index])
            return probe_metrics(fit(*on_device, DECAYS[index]), *validation)['acc1']

        decay = float(DECAYS[search(accuracy_of)])
        data = tuple(np.concatenate(pair) for pair in zip(train, validation, strict=True))
    probe = fit(*data, decay)
    return probe_metrics(probe, *test) | {'weight_decay': decay, 'n': len(test[1])}
