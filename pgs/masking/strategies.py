"""The one interface of all strategies: a file NAME.py in this folder with a function NAME.

A strategy is a pure function

    NAME(rng, images, patch_embeddings, progress, *, patch_size, **options) -> PatchSelection

    rng               a random key for each image (B,), or a single key that is split
    images            float (B, H, W, 3)
    patch_embeddings  (B, L, D), after the position embedding
    progress          step / total_steps in [0, 1]
    patch_size        side of a patch in pixels
    options           keyword arguments with defaults; config.masking sets them by name

A strategy may also declare the keyword argument `attention` without a default (attention.py):

    attention         float32 (B, S), how strongly an image tower's class token attends to each patch

It runs inside the jitted train step; its shapes depend only on the options and the batch size.

The file may also have a function that sets options from training images before the first step:

    calibrate(num_patches, *, patch_size, **options) -> Calibration | None

It checks its options, which may be other ones than the strategy's, and returns None where they ask
for no calibration (calibration.py).

To add a strategy, write its file and a config that names it (docs/masking.md). Nothing else changes.
"""

import difflib
import functools
import importlib
import inspect
import math
import pkgutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pgs.errors import UserError
from pgs.masking.attention import ATTENTION, attention_shape
from pgs.masking.calibration import Calibration
from pgs.masking.selection import PatchSelection

SELECTOR = 'strategy'  # the key of config.masking that names the strategy
RUN_KEYS = {
    'until',
    'whole_share',
}  # keys for any strategy, which the run reads; the others are options
PROVIDED = {'patch_size', ATTENTION}  # keyword arguments that are no options


@functools.cache  # at the first call and not at import, so that a strategy may import this module
def known_strategies() -> dict[str, Callable[..., PatchSelection]]:
    """Name -> function, of every module in this folder that holds a function of its own name."""
    found = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        path = f'{__package__}.{module.name}'
        if path != __name__:
            function = getattr(importlib.import_module(path), module.name, None)
            if callable(function):
                found[module.name] = function
    return found


def options_of(strategy: Callable) -> dict[str, Any]:
    """Option -> default, by the signature of a strategy."""
    return {
        p.name: p.default
        for p in inspect.signature(strategy).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name not in PROVIDED
    }


def calibrate_of(strategy: Callable) -> Callable[..., Calibration | None] | None:
    """The function `calibrate` of a strategy's file, if there is one."""
    return getattr(sys.modules.get(strategy.__module__), 'calibrate', None)


def all_options_of(strategy: Callable) -> dict[str, Any]:
    """options_of a strategy and of the function `calibrate` beside it."""
    calibrate = calibrate_of(strategy)
    return (options_of(calibrate) if calibrate else {}) | options_of(strategy)


def find_strategy(name: str) -> Callable[..., PatchSelection]:
    """The strategy of a name.

    Raises:
      UserError: an unknown name; the nearest known one is named.
    """
    if name not in known_strategies():
        near = difflib.get_close_matches(str(name), known_strategies(), n=1)
        hint = f'did you mean {near[0]!r}? ' if near else ''
        raise UserError(
            f'masking.strategy={name!r} is unknown: {hint}known are {", ".join(known_strategies())}; '
            f'a new one is a file pgs/masking/{name}.py with a function {name}'
        )
    return known_strategies()[name]


def configured(masking: Mapping[str, Any], patch_size: int) -> functools.partial[PatchSelection]:
    """The strategy that config.masking names, with its options bound.

    An option that config.masking does not name takes the default of the function's signature.

    Args:
      masking: config.masking: 'strategy', and options of this strategy and of others.
      patch_size: side of a patch in pixels.

    Returns:
      (rng, images, patch_embeddings, progress) -> PatchSelection; a strategy that asks for an
      attention map takes it as the keyword argument `attention`.

    Raises:
      UserError: an unknown strategy, an option without a default, a key that is no strategy's
        option, or a value of the wrong type.
    """
    strategy = find_strategy(masking[SELECTOR])
    known = {name for function in known_strategies().values() for name in all_options_of(function)}
    for key in masking:
        if key not in known | RUN_KEYS | {SELECTOR}:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f'did you mean config.masking.{near[0]}? ' if near else ''
            raise UserError(
                f'config.masking.{key} is not an option of any strategy: {hint}'
                f'known are {", ".join(sorted(known))}'
            )
    defaults = options_of(strategy)
    if without := [name for name, value in defaults.items() if value is inspect.Parameter.empty]:
        raise UserError(
            f'strategy {masking[SELECTOR]!r}: its option {without[0]} needs a default in the signature'
        )
    for name, default in all_options_of(strategy).items():
        if name in masking:
            check_option(name, masking[name], default)
    options = {name: masking[name] for name in defaults if name in masking}
    return functools.partial(strategy, patch_size=patch_size, **options)


def configured_calibration(
    masking: Mapping[str, Any], patch_size: int, num_patches: int
) -> Calibration | None:
    """The calibration that config.masking asks for; None if it asks for none.

    Args:
      masking: config.masking, as `configured` accepts it.
      patch_size: side of a patch in pixels.
      num_patches: of an image.

    Raises:
      UserError: options that do not fit each other or the number of patches.
    """
    calibrate = calibrate_of(find_strategy(masking[SELECTOR]))
    if calibrate is None:
        return None
    options = {name: masking[name] for name in options_of(calibrate) if name in masking}
    return calibrate(num_patches, patch_size=patch_size, **options)


def check_option(name: str, value: Any, default: Any) -> None:
    """Raises UserError for a value of another type than the default, or one that is not finite."""
    kind = type(default)
    fits = isinstance(value, (float, int) if kind is float else kind)
    if kind is not bool:
        fits = fits and not isinstance(value, bool)
    if not fits:
        raise UserError(
            f'config.masking.{name}={value!r} must be of type {kind.__name__}, such as {default!r}'
        )
    if kind is float and not math.isfinite(value):
        raise UserError(f'config.masking.{name}={value} must be finite; the default is {default}')


def selection_shape(
    strategy: Callable, image_size: int, patch_size: int, batch: int = 1
) -> PatchSelection:
    """Shapes, dtypes and static fields that a configured strategy gives; nothing is computed.

    Raises:
      UserError: options that do not fit the number of patches.
    """
    length = (image_size // patch_size) ** 2
    return jax.eval_shape(
        functools.partial(strategy, progress=0.0),
        jax.random.key(0),
        jax.ShapeDtypeStruct((batch, image_size, image_size, 3), jnp.float32),
        jax.ShapeDtypeStruct((batch, length, 1), jnp.float32),
        **attention_shape(strategy, image_size, patch_size, batch),
    )


def label(name: str, selection: PatchSelection, num_patches: int) -> str:
    """A strategy's name with the fraction that it masks, for tables: 'pgs 0.3-0.5'."""
    fewest, most = (f'{count / num_patches:.2g}' for count in selection.masked_range(num_patches))
    if selection.masked_range(num_patches) == (0, 0):
        return name
    return f'{name} {fewest}' + ('' if fewest == most else f'-{most}')


def check_output(
    name: str, strategy: functools.partial[PatchSelection], image_size: int, patch_size: int
) -> None:
    """Runs a configured strategy on two images and checks what it returns.

    Args:
      name: of the strategy, for the message.
      strategy: of `configured`.
      image_size, patch_size: pixels.

    Raises:
      UserError: another type, shape or dtype than PatchSelection's, positions out of range or out
        of order, an image without a visible patch, or options that do not fit the patches.
    """
    options = tuple(sorted(strategy.keywords.items()))
    problem = find_problem(strategy.func, options, image_size, patch_size)
    if problem:
        raise UserError(f'strategy {name!r} (pgs/masking/{name}.py) {problem}')


@functools.cache  # a run builds its step more than once
def find_problem(function: Callable, options: tuple, image_size: int, patch_size: int) -> str:
    """What is wrong with a strategy's output; '' where nothing is."""
    batch, length = 2, (image_size // patch_size) ** 2
    keys = jax.random.split(jax.random.key(0), batch)
    images = jax.random.normal(keys[0], (batch, image_size, image_size, 3))
    images = images.at[1].set(0.0)  # a flat image, which has no edges and no direction
    embeddings = jax.random.normal(keys[1], (batch, length, 8))
    strategy = functools.partial(function, **dict(options))
    given = {
        name: jax.random.uniform(keys[0], shape.shape).at[1].set(0.0)
        for name, shape in attention_shape(strategy, image_size, patch_size, batch).items()
    }
    selection = jax.jit(strategy)(keys, images, embeddings, 0.5, **given)
    if not isinstance(selection, PatchSelection):
        return f'returns a {type(selection).__name__}, not a PatchSelection'
    keep, valid = selection.keep_ids, selection.valid
    if keep.dtype != jnp.int32 or keep.ndim != 2 or keep.shape[0] != batch:
        return (
            f'gives keep_ids of {keep.dtype} {keep.shape} for {batch} images: it must be int32 '
            f'({batch}, K)'
        )
    if not 1 <= keep.shape[1] <= length:
        return f'keeps {keep.shape[1]} of {length} patches: it must keep 1 to {length}'
    ids = np.asarray(keep)
    if ids.min() < 0 or ids.max() >= length:
        return f'gives positions from {ids.min()} to {ids.max()}: they must be in [0, {length})'
    if (np.diff(ids, axis=1) <= 0).any():
        return (
            'gives positions that are not ascending and distinct: sort them, as select_ranked does'
        )
    if valid is not None and (valid.dtype != bool or valid.shape != keep.shape):
        return f'gives valid of {valid.dtype} {valid.shape}: it must be bool {keep.shape}'
    if valid is not None and not np.asarray(valid).any(axis=1).all():
        return 'leaves an image without a visible patch'
    return ''
