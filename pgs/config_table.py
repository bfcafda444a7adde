"""Every key of configs/base.py: its type, range and meaning; and the check of a config against them.

`python -m pgs.config_page` writes docs/configuration.md from this table. What depends on several
keys, on the devices or on the data is checked in build.py and where the data is opened.
"""

import difflib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from configs import base
from input_pipeline import text_masking
from pgs.depth import TOWERS
from pgs.errors import UserError
from pgs.masking.pgs import EDGE_DETECTORS, RUNS_OWN_PROGRESS
from pgs.masking.strategies import SELECTOR, all_options_of, known_strategies
from pgs.models.clip import ATTENTIONS
from pgs.models.transformer import REMAT_POLICIES
from pgs.optimizer import SCHEDULES

MAX_COUNT = 10**9  # of steps and sizes; int32 counts them
MAX_SEED = 2**32 - 1  # a random key has 32 bits of the seed: 2**32 would be 0 again
MAX_FLOAT = float(np.finfo(np.float32).max)
MIN_CROP = 0.01  # of an image's area; below it a crop shows a few pixels
SHOWN = 60  # characters of a bad value in a message


class Key(NamedTuple):
    """What the value of a key may be.

    Attributes:
      kind: 'range' is a pair (smallest, largest) of numbers, 'rows' a tuple that
        input_pipeline/sources.py checks.
      meaning: for docs/configuration.md.
      low, high: smallest and largest number, both included.
      above, below: low or high itself is excluded.
      besides: single values that are valid outside the range.
      choices: all valid texts, of 'texts' each one; (): any.
      empty: an empty text is valid, besides the choices.
    """

    kind: Literal['whole number', 'number', 'switch', 'text', 'texts', 'range', 'rows']
    meaning: str
    low: float = 0
    high: float = MAX_FLOAT
    above: bool = False
    below: bool = False
    besides: tuple[Any, ...] = ()
    choices: tuple[str, ...] = ()
    empty: bool = False


def count(meaning: str, low: int = 1, high: int = MAX_COUNT, **options: Any) -> Key:
    """A whole number, at least 1 unless stated."""
    return Key('whole number', meaning, low, high, **options)


def fraction(meaning: str, **options: Any) -> Key:
    """A number from 0 to 1."""
    return Key('number', meaning, 0, 1, **options)


def number(meaning: str, **options: Any) -> Key:
    """A number of at least 0; above=True excludes 0."""
    return Key('number', meaning, **options)


def switch(meaning: str, **options: Any) -> Key:
    """True or False."""
    return Key('switch', meaning, **options)


def text(meaning: str, **options: Any) -> Key:
    """A text; not empty unless stated."""
    return Key('text', meaning, **options)


# One row a key, in the order of configs/base.py.
TABLE: dict[str, Key] = {
    'seed': count('of all random numbers', low=0, high=MAX_SEED),
    'batch_size': count('pairs of a global batch; a multiple of the number of devices', high=2**22),
    'epochs': count('passes over the data; used if `total_steps` is None', high=10**6),
    'total_steps': count(
        'steps of the run; None: `epochs` * ceil(pairs / `batch_size`)', besides=(None,)
    ),
    'init_from': text(
        'path of initial weights ([weights.md](weights.md)); empty: random', empty=True
    ),
    'model_from_weights': switch(
        '`model.*` is that of the weights of `init_from`; `model.image.image_size` too where it is '
        'None, `model.dtype` and `model.remat` never'
    ),
    'mesh.data': count(
        'devices along the data-parallel axis; -1: the remaining ones', besides=(-1,)
    ),
    'mesh.zero': count(
        'devices along an axis that shards parameters and moments, and gathers all parameters once a step '
        '(ZeRO-1); -1: the remaining',
        besides=(-1,),
    ),
    'mesh.fsdp': count(
        'devices that share one copy of the state; -1: the remaining', besides=(-1,)
    ),
    'microbatches': count('parts of a batch embedded one after the other, for less memory'),
    'compile_cache': text(
        'folder of compiled programs, so that a resumed run need not compile '
        '([training.md](training.md#stopping-and-resuming)); empty: none',
        empty=True,
    ),
    'log_every': count('steps between two lines of the metrics'),
    'checkpoint_every': count('steps between two checkpoints'),
    'checkpoints_kept': count('number of checkpoints that are kept, the newest ones'),
    'checkpoints_kept_every': count(
        'checkpoints of the multiples of this number of steps are kept as well; 0: none', low=0
    ),
    'checkpoint_best': text(
        'a score of `metrics.jsonl`, such as `eval/val_loss`, whose best checkpoint is kept as '
        'well; it needs `evals` and `eval_every`',
        empty=True,
    ),
    'profile_steps': count('steps to trace for the profiler; 0: none', low=0),
    'tracker': text(
        'a service that gets metrics, config, results and figures as well '
        '([training.md](training.md#tracking)); empty: none',
        choices=('wandb',),
        empty=True,
    ),
    'max_skipped': count(
        'steps in a row without a finite loss and gradient after which the run stops '
        '([diagnosis.md](diagnosis.md))'
    ),
    'failed_saves_allowed': count(
        'checkpoints in a row that may fail to be written before the run stops; several processes '
        'stop at the first ([reliability.md](reliability.md))',
        low=0,
    ),
    'silence_limit': number(
        'seconds without progress in a phase other than compiling after which the run stops; '
        '0: none ([reliability.md](reliability.md))'
    ),
    'evals': Key('texts', "`'held_out'`, and tasks of pgs.evaluate"),
    'eval_masked': switch('held-out pairs are scored on masked images as well'),
    'eval_every': count('steps between two evaluations; 0: only at the end', low=0),
    'eval_data_root': text('folder of the evaluation sets ([evaluation.md](evaluation.md))'),
    'data.name': text('an embedded set ([data.md](data.md)), or the name of a set in `data.dir`'),
    'data.dir': text(
        'a prepared folder, or a folder of TFDS data sets; local or gs://', empty=True
    ),
    'data.mixture': Key('rows', 'rows (name, dir, weight) to train on; empty: `data.name` only'),
    'data.skip_unreadable': switch(
        'damaged records are skipped with a warning; False: the run stops'
    ),
    'data.shuffle': text(
        'full: over all records; window: over a few shards at a time, which are read whole '
        '([data.md](data.md#window-shuffle))',
        choices=('full', 'window'),
    ),
    'data.window_streams': count(
        'window: parts of a batch, each with windows of its own; divides `batch_size`'
    ),
    'data.window_shards': count('window: shards of a stream whose records are mixed'),
    'data.window_cache': text(
        'window: folder to which shards are copied; empty: those of gs:// only, to '
        '`data.cache_dir`/shards',
        empty=True,
    ),
    'data.window_cache_gb': number(
        "window: size that a process's copies may have, gigabytes; 0: what the disk has free"
    ),
    'data.cache_dir': text('folder in which the embedded data sets are built'),
    'data.train_split': text('split to train on'),
    'data.validation_split': text('split of the held-out scores; there are none without it'),
    'data.crop_scale': Key(
        'range', 'area of the random crop, as a fraction of the image', low=MIN_CROP, high=1
    ),
    'data.scaled_decode': switch(
        'a JPEG whose crop is at least three times the image size is decoded at 1/2 or 1/4 of its '
        'size: faster, and nearly the same pixels ([data.md](data.md#speed))'
    ),
    'model.embed_dim': count('width of the embedding that both towers share', high=2**16),
    'model.dtype': text(
        'of the computation; auto: bfloat16 on TPU and GPU, float32 on CPU',
        choices=('auto', 'float32', 'bfloat16'),
    ),
    'model.remat': text(
        'what the backward pass recomputes: nothing, all but products, everything',
        choices=tuple(REMAT_POLICIES),
    ),
    'model.unroll': count(
        'blocks of a tower that follow each other without a loop, all of them from its layers on; '
        '0: all on a TPU, where it is faster and compiles longer, 1 elsewhere',
        low=0,
        high=1000,
    ),
    'model.attention': text(
        "auto is XLA's, and cuDNN's on a GPU; pallas is a kernel for TPUs, where it pays, that "
        'nobody has run on one yet ([performance.md](performance.md#attention))',
        choices=ATTENTIONS,
    ),
    'model.quick_gelu': switch("QuickGELU, for OpenAI's weights; False: exact GELU"),
    'model.image.image_size': count('pixels of a side', high=4096),
    'model.image.patch_size': count("pixels of a patch's side; divides `image_size`", high=4096),
    'model.image.width': count('of the image tower; a multiple of `heads`', high=2**16),
    'model.image.layers': count('blocks of the image tower', high=1000),
    'model.image.heads': count('attention heads of the image tower', high=2**16),
    'model.image.mlp_ratio': number('hidden width of a block over its width', above=True, high=100),
    'model.text.context_length': count(
        'tokens of a caption, with start and end', low=3, high=2**16
    ),
    'model.text.vocab_size': count("token ids, at least those of CLIP's tokenizer", high=2**24),
    'model.text.width': count('of the text tower; a multiple of `heads`', high=2**16),
    'model.text.layers': count('blocks of the text tower', high=1000),
    'model.text.heads': count('attention heads of the text tower', high=2**16),
    'model.text.mlp_ratio': number('hidden width of a block over its width', above=True, high=100),
    'model.text.tokens_per_pair': count(
        'tokens that training computes for a caption on average, packed without padding '
        '([training.md](training.md#captions-without-padding)), at least the start and end token; '
        'None: `context_length` for each',
        low=2,
        high=2**16,
        besides=(None,),
    ),
    'weights_ema': fraction(
        'decay of an exponential moving average of the weights, which is scored and exported in '
        'their place; 0: none',
        below=True,
    ),
    'masking.strategy': text('a file of pgs/masking ([masking.md](masking.md))'),
    'masking.until': fraction('share of the run after which images are whole; 1: never'),
    'masking.whole_share': fraction('share of each batch whose images keep all patches'),
    'masking.mask_ratio': fraction('masked fraction of the patches', below=True),
    'masking.covariance': number("of the centre's density; sides reach from -1 to 1", above=True),
    'masking.attention_scale': number(
        "resolution of the scorer's images: 0.5 or 1", above=True, high=1
    ),
    'masking.ema_decay': fraction("of the scorer's weights; rises to 1 over the run", below=True),
    'masking.anchor_ratio': fraction('fraction of the patches drawn as anchors', below=True),
    'masking.cluster_threshold': Key('number', 'cosine to an anchor that masks a patch', -1, 1),
    'masking.cluster_target': fraction(
        'mean masked fraction that the threshold is set for before training; 0: as given',
        below=True,
    ),
    'masking.edge_window': count('side of the patches over which edges are averaged; 1: none'),
    'masking.border_weight': number(
        'how strongly the distance from the border protects a patch', high=1e6
    ),
    'masking.candidate_ratio': fraction('pre-selected fraction of the patches', below=True),
    'masking.min_ratio': fraction('smallest masked fraction of an image', below=True),
    'masking.max_ratio': fraction('largest masked fraction of an image', below=True),
    'masking.edge_weight': number('beta: how strongly an edge protects its patch', high=1e6),
    'masking.epsilon': number('entropy regularisation of the transport', above=True),
    'masking.threshold': number(
        'balanced similarity L * P above which patches are alike', above=True
    ),
    'masking.budget_group': count('images that share a token budget'),
    'masking.long_share': fraction(
        'share of each group given the long (`min_ratio`) slots; 1: all'
    ),
    'masking.use_edges': switch("ED of the paper's ablation"),
    'masking.use_transport': switch("OTN of the paper's ablation"),
    'masking.edge_detector': text("of the paper's ablation", choices=tuple(EDGE_DETECTORS)),
    'masking.selection_noise': number('randomness of the selection, against starvation', high=1e6),
    'masking.fixed_progress': fraction(
        "progress for all steps; -1: the run's", besides=(RUNS_OWN_PROGRESS,)
    ),
    'text_masking.strategy': text(
        'which tokens of a caption that is too long are kept ([data.md](data.md#captions))',
        choices=text_masking.NAMES,
    ),
    'text_masking.context_length': count(
        'tokens of a training caption; 0: `model.text.context_length`', low=0, high=2**16
    ),
    'text_masking.threshold': number(
        'frequency: share of all words below which all are kept', above=True
    ),
    'optimizer.peak_learning_rate': number('after the warm-up'),
    'optimizer.warmup_steps': count('steps of the linear warm-up', low=0),
    'optimizer.schedule': text(
        'of the learning rate after the warm-up ([training.md](training.md#fine-tuning))',
        choices=SCHEDULES,
    ),
    'optimizer.decay_share': fraction('wsd: share of the run, at its end, in which it falls to 0'),
    'optimizer.tail_rate': number('peak of a second warm-up, after `masking.until`; 0: none'),
    'optimizer.tail_warmup_steps': count('steps of the second warm-up', low=0),
    'optimizer.beta1': fraction('decay of the first moment', below=True),
    'optimizer.beta2': fraction('decay of the second moment', below=True),
    'optimizer.epsilon': number('added to the root of the second moment', above=True),
    'optimizer.weight_decay': number('on matrices only'),
    'optimizer.mu_dtype': text(
        'of the first moment; bfloat16 saves 2 bytes a parameter', choices=('float32', 'bfloat16')
    ),
    'optimizer.clip_norm': number('largest norm of the whole gradient; 0: any'),
    'optimizer.layer_decay': fraction(
        "a layer's learning rate over that of the layer after it; 1: the same", above=True
    ),
    'optimizer.frozen': Key('texts', 'towers that are not trained', choices=TOWERS),
    'optimizer.frozen_image_layers': count(
        "the image tower's first blocks that are not trained, and its embeddings with them; 0: none",
        low=0,
    ),
    'optimizer.frozen_text_layers': count('the same of the text tower', low=0),
}


def check_values(config: ConfigDict | Mapping[str, Any]) -> None:
    """Checks each value of a config by its row in the table.

    An option of config.masking without a row is checked by the strategy's signature
    (`strategies.configured`); so is one that the configured strategy gives a default which the
    row refuses: it means something else there.

    Args:
      config: as configs/base.py.

    Raises:
      UserError: an unknown or missing key, or a value of another type or outside its range.
    """
    values = flat(config)
    for key in values:
        if key not in TABLE and not key.startswith('masking.'):
            near = difflib.get_close_matches(key, TABLE, n=1, cutoff=0.5)
            hint = f'did you mean config.{near[0]}? ' if near else ''
            raise UserError(f'config.{key} is unknown: {hint}configs/base.py lists every key')
    defaults = flat(base.get_config())
    name = str(values.get(f'masking.{SELECTOR}'))  # an unknown one is named by `configured`
    strategy = known_strategies().get(name)
    own = flat({'masking': all_options_of(strategy) if strategy else {}})
    for key, row in TABLE.items():
        if key in values:
            if key in own and not fits(row, own[key]):
                continue
            check_value(key, values[key], defaults[key])
        elif not strategies_with(key):  # an option of a strategy has a default in the signature
            raise UserError(f'config.{key} is missing: the default is {defaults[key]!r}')


def strategies_with(key: str) -> list[str]:
    """Names of the strategies that have a key of config.masking as an option."""
    part, _, option = key.partition('.')
    options = {name: all_options_of(function) for name, function in known_strategies().items()}
    return [name for name, own in options.items() if part == 'masking' and option in own]


def flat(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """Key with dots -> value."""
    plain = config.to_dict() if isinstance(config, ConfigDict) else config
    return flatten_dict(plain, sep='.')


def check_value(key: str, value: Any, default: Any) -> None:
    """Raises UserError for a value that the row of `key` does not allow."""
    row = TABLE[key]
    if row.kind == 'texts' and isinstance(value, str):
        raise UserError(f"config.{key}={shown(value)} must be a tuple, such as ('{value}',)")
    known = ('', *row.choices) if row.empty else row.choices
    if row.choices and isinstance(value, str) and value not in known:
        near = difflib.get_close_matches(value, row.choices, n=1)
        hint = f'did you mean {near[0]!r}? ' if near else ''
        raise UserError(f'config.{key}={shown(value)} is unknown: {hint}take {describe(row)}')
    if not fits(row, value):
        remedy = nearest(row, value)
        ending = f'; the default is {default!r}' if remedy is None else f': take {remedy}'
        kind = 'a number ' if row.kind == 'number' and not is_number(value) else ''
        raise UserError(f'config.{key}={shown(value)} must be {kind}{describe(row)}{ending}')


def fits(row: Key, value: Any) -> bool:
    """Whether a value has the type of a row and is in its range."""
    if any(value is one or (is_number(value) and value == one) for one in row.besides):
        return True
    if row.kind == 'switch':
        return isinstance(value, bool)
    if row.kind == 'text':
        return is_text(value) and (row.empty or value != '')
    if row.kind == 'rows':
        return isinstance(value, tuple | list)
    if row.kind == 'texts':
        return isinstance(value, tuple | list) and all(
            is_text(v) and (v in row.choices if row.choices else v) for v in value
        )
    if row.kind == 'range':
        return (
            isinstance(value, tuple | list)
            and len(value) == 2
            and all(is_number(v) and in_range(row, v) for v in value)
            and value[0] <= value[1]
        )
    if row.kind == 'whole number' and not isinstance(value, int):
        return False
    return is_number(value) and in_range(row, value)


def is_text(value: Any) -> bool:
    """A text that can be a path and be printed."""
    if not isinstance(value, str) or '\0' in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # bytes of a command line that are not UTF-8
        return False
    return True


def is_number(value: Any) -> bool:
    """A plain number; NumPy's could not be written to config.json."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def in_range(row: Key, value: float) -> bool:
    """Whether a number is in range, and still is in float32, in which the step computes."""
    if row.kind == 'whole number' or not row.low <= value <= row.high:  # NaN is in no range
        return row.low <= value <= row.high
    single = float(np.float32(value))
    if abs(single) < np.finfo(np.float32).tiny:
        single = 0.0  # processors compute with 0 in place of smaller numbers
    return not (row.above and single <= row.low) and not (row.below and single >= row.high)


def nearest(row: Key, value: Any) -> Any:
    """The valid number closest to one that is out of range; None if there is no closest one."""
    if row.kind not in ('whole number', 'number') or not is_number(value) or value != value:
        return None
    bound, excluded = (row.low, row.above) if value <= row.low else (row.high, row.below)
    if excluded or bound == MAX_FLOAT or row.low < value < row.high:
        return None
    return f'{bound:g}' if row.kind == 'number' else str(int(bound))


def describe(row: Key) -> str:
    """The valid values in words, such as 'a whole number of at least 1'."""
    if row.choices and row.kind == 'texts':
        return f'a tuple of {" and ".join(row.choices)}, such as ({row.choices[0]!r},)'
    if row.choices:
        return f'one of {", ".join(row.choices)}' + (', or an empty text' if row.empty else '')
    words = {
        'switch': 'True or False',
        'text': 'a text' if row.empty else 'a text that is not empty',
        'texts': "a tuple of texts, such as ('held_out',)",
        'rows': 'a tuple of rows (name, dir, weight)',
        'range': f'{row.low:g} <= smallest <= largest <= {row.high:g}',
    }
    if row.kind in words:
        return words[row.kind]
    integer = row.kind == 'whole number'
    low, high = (str(int(b)) if integer else f'{b:g}' for b in (row.low, row.high))
    if row.high in (MAX_COUNT, MAX_FLOAT):
        limits = f'above {low}' if row.above else f'at least {low}'
    elif row.above:
        limits = f'above {low} and at most {high}'
    else:
        limits = f'from {low} to {"below " if row.below else ""}{high}'
    if integer:
        limits = f'a whole number {"of " if limits.startswith("at") else ""}{limits}'
    return ' or '.join([limits, *map(str, row.besides)])


def shown(value: Any) -> str:
    """A value for a message, on one line and not too long."""
    try:
        words = repr(value)
    except ValueError:  # Python prints no number of more than 4300 digits
        return '(a huge number)'
    return words if len(words) <= SHOWN else f'{words[:SHOWN]}...'
