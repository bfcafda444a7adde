"""AdamW with linear warm-up and cosine decay, as in the paper's recipe, and options for fine-tuning."""

from typing import Any

import flax
import jax
import optax
from ml_collections import ConfigDict

from pgs.depth import freezes, rate_factors

SCHEDULES = ('cosine', 'constant', 'wsd')

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
    """Linear warm-up, then what config.optimizer.schedule names; see `phase`.

    A run that is shorter than its warm-up ends within the warm-up: the rate at each step is that
    of the recipe.

    Args:
      optimizer: config.optimizer, with peak_learning_rate, warmup_steps, schedule, decay_share.
      total_steps: number of steps of the run.
      tail_start: step at which the unmasked end of the run begins (config.masking.until), if any.
        With optimizer.tail_rate above 0 the schedule ends there, and one of the same shape follows,
        which warms up to that value in optimizer.tail_warmup_steps; otherwise it goes on.
    """
    peak, warmup = optimizer.peak_learning_rate, optimizer.warmup_steps
    if tail_start is None or not optimizer.tail_rate > 0.0:
        return phase(optimizer, peak, warmup, total_steps)
    tail = phase(
        optimizer, optimizer.tail_rate, optimizer.tail_warmup_steps, total_steps - tail_start
    )
    if tail_start == 0:
        return tail
    return optax.join_schedules([phase(optimizer, peak, warmup, tail_start), tail], [tail_start])


def phase(optimizer: ConfigDict, peak: float, warmup: int, steps: int) -> optax.Schedule:
    """Linear warm-up to `peak` in `warmup` steps, and then, until `steps`:

    cosine: falls to 0 by half a cosine;
    constant: stays;
    wsd: stays, and falls linearly to 0 over the last config.optimizer.decay_share of the steps, but
      not before the warm-up is over: warm-up, stable, decay (MiniCPM, arXiv 2404.06395, whose decay
      is exponential).
    """
    start = peak / max(warmup, 1)
    if optimizer.schedule == 'cosine':
        return optax.warmup_cosine_decay_schedule(
            init_value=start,
            peak_value=peak,
            warmup_steps=warmup,
            decay_steps=max(steps, warmup + 1),
            end_value=0.0,
        )
    constant = optax.warmup_constant_schedule(start, peak, warmup)
    if optimizer.schedule == 'constant':
        return constant
    decay = max(round(optimizer.decay_share * steps), 1)
    turn = max(steps - decay, warmup)
    fall = optax.linear_schedule(peak, 0.0, max(steps - turn, 1))
    return optax.join_schedules([constant, fall], [turn])


def build_optimizer(optimizer: ConfigDict, learning_rate) -> optax.GradientTransformation:
    """AdamW, decoupled weight decay on matrices only.

    Args:
      optimizer: config.optimizer, with beta1, beta2, epsilon, weight_decay and mu_dtype. Arrays that
        are frozen as a whole have no moments; a rate factor multiplies the decay as well.
      learning_rate: a constant or a schedule.
    """
    adamw = optax.adamw(
        learning_rate,
        b1=optimizer.beta1,
        b2=optimizer.beta2,
        eps=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
        mu_dtype=optimizer.mu_dtype,
        mask=decay_mask,
    )
    if not freezes(optimizer) and optimizer.layer_decay == 1.0:
        return adamw  # with the state that the checkpoints of all other runs have

    def is_trained(params: Any) -> Any:
        return jax.tree.map(lambda factor: bool(factor.any()), rate_factors(optimizer, params))

    def scale(updates: Any, params: Any) -> Any:
        del params
        return jax.tree.map(lambda u, f: u * f, updates, rate_factors(optimizer, updates))

    return optax.chain(optax.masked(adamw, is_trained), optax.stateless(scale))
