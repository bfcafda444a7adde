"""AdamW with linear warm-up and cosine decay, as in the paper's recipe."""

import flax
import optax

from pgs.errors import UserError

# OpenCLIP's rule: gains, biases, the class token and the logit scale are not decayed. It selects them
# by their number of dimensions; layers are stacked here, so that names are needed.
NOT_DECAYED = {'scale', 'bias', 'class_token', 'logit_scale'}


def decay_mask(params) -> dict:
    """A tree like params: True for matrices, which are decayed."""
    flat = flax.traverse_util.flatten_dict(params)
    return flax.traverse_util.unflatten_dict({p: p[-1] not in NOT_DECAYED for p in flat})


def build_schedule(optimizer, total_steps: int) -> optax.Schedule:
    """Linear warm-up, then cosine to 0 at total_steps.

    A run that is shorter than its warm-up ends within the warm-up: the rate at each step is that
    of the recipe.

    Args:
      optimizer: config.optimizer, with peak_learning_rate and warmup_steps.
      total_steps: number of steps of the run.
    """
    peak, warmup = optimizer.peak_learning_rate, optimizer.warmup_steps
    return optax.warmup_cosine_decay_schedule(
        init_value=peak / max(warmup, 1),
        peak_value=peak,
        warmup_steps=warmup,
        decay_steps=max(total_steps, warmup + 1),
        end_value=0.0,
    )


def build_optimizer(optimizer, learning_rate) -> optax.GradientTransformation:
    """AdamW, decoupled weight decay on matrices only.

    Args:
      optimizer: config.optimizer, with beta1, beta2, epsilon, weight_decay and mu_dtype.
      learning_rate: a constant or a schedule.

    Raises:
      UserError: unknown mu_dtype.
    """
    if optimizer.mu_dtype not in ('float32', 'bfloat16'):
        raise UserError(
            f'config.optimizer.mu_dtype={optimizer.mu_dtype!r} is unknown: take float32 or bfloat16'
        )
    return optax.adamw(
        learning_rate,
        b1=optimizer.beta1,
        b2=optimizer.beta2,
        eps=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
        mu_dtype=optimizer.mu_dtype,
        mask=decay_mask,
    )
