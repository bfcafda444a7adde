"""AdamW with linear warm-up and cosine decay, as in the paper's recipe."""

import flax
import optax
from ml_collections import ConfigDict

# OpenCLIP's rule: gains, biases, the class token and the logit scale are not decayed. It selects them
# by their number of dimensions; layers are stacked here, so that names are needed.
NOT_DECAYED = {'scale', 'bias', 'class_token', 'logit_scale'}


def decay_mask(params) -> dict:
    """A tree like params: True for matrices, which are decayed."""
    flat = flax.traverse_util.flatten_dict(params)
    return flax.traverse_util.unflatten_dict({p: p[-1] not in NOT_DECAYED for p in flat})


def build_schedule(
    optimizer: ConfigDict, total_steps: int, tail_start: int | None = None
) -> optax.Schedule:
    """Linear warm-up, then cosine to 0 at the end.

    A run that is shorter than its warm-up ends within the warm-up: the rate at each step is that
    of the recipe.

    Args:
      optimizer: config.optimizer, with peak_learning_rate and warmup_steps.
      total_steps: number of steps of the run.
      tail_start: step at which the unmasked end of the run begins (config.masking.until), if any.
        With optimizer.tail_rate above 0 the rate reaches 0 there, warms up to that value
        in optimizer.tail_warmup_steps and reaches 0 again at the end; otherwise it goes on.
    """
    if tail_start is None or not optimizer.tail_rate > 0.0:
        return warmup_cosine(optimizer.peak_learning_rate, optimizer.warmup_steps, total_steps)
    tail = warmup_cosine(optimizer.tail_rate, optimizer.tail_warmup_steps, total_steps - tail_start)
    if tail_start == 0:
        return tail
    head = warmup_cosine(optimizer.peak_learning_rate, optimizer.warmup_steps, tail_start)
    return optax.join_schedules([head, tail], [tail_start])


def warmup_cosine(peak: float, warmup: int, steps: int) -> optax.Schedule:
    """Linear warm-up to `peak` in `warmup` steps, then cosine to 0 at `steps`."""
    return optax.warmup_cosine_decay_schedule(
        init_value=peak / max(warmup, 1),
        peak_value=peak,
        warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1),
        end_value=0.0,
    )


def build_optimizer(optimizer: ConfigDict, learning_rate) -> optax.GradientTransformation:
    """AdamW, decoupled weight decay on matrices only.

    Args:
      optimizer: config.optimizer, with beta1, beta2, epsilon, weight_decay and mu_dtype.
      learning_rate: a constant or a schedule.
    """
    return optax.adamw(
        learning_rate,
        b1=optimizer.beta1,
        b2=optimizer.beta2,
        eps=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
        mu_dtype=optimizer.mu_dtype,
        mask=decay_mask,
    )
