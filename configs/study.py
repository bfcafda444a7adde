"""The quickstart's model with each mask that benchmarks.study compares, one argument for each variant.

Command:  python main.py --config=configs/study.py:attentive
Time:     that of configs/quickstart.py and less, by the variant's FLOPs
Result:   none yet; `python -m benchmarks.study` trains all variants with several seeds

A variant masks from the first step to the last, unless its name says otherwise: `-tail` sees whole
images and captions in the last 5 % of its steps, as the text masks do, and `-mixed` masks four of
five images. `edges` is `background` without its border prior.
"""

from typing import Any

from configs import quickstart
from pgs.errors import UserError

HALF = {'masking.mask_ratio': 0.5, 'masking.min_ratio': 0.5, 'masking.max_ratio': 0.5}
TAIL = {'masking.until': 0.95}
SHORT = TAIL | {'text_masking.context_length': 8}
PGS: dict[str, Any] = {'masking.strategy': 'pgs', **HALF}
BACKGROUND: dict[str, Any] = {
    'masking.strategy': 'background',
    'masking.selection_noise': 1.0,
    **HALF,
}
TEXT: dict[str, Any] = {'masking.strategy': 'none', **SHORT}

# argument -> key of the config -> value
VARIANTS: dict[str, dict[str, Any]] = {
    'none': {'masking.strategy': 'none'},
    'random': {'masking.strategy': 'random', **HALF},
    'gaussian': {'masking.strategy': 'gaussian', **HALF},
    'cluster': {
        'masking.strategy': 'cluster',
        'masking.cluster_target': 0.5,
        'masking.min_ratio': 0.3,
        'masking.max_ratio': 0.7,
    },
    'attentive': {'masking.strategy': 'attentive', **HALF},
    'pgs': PGS,
    'pgs-0.3': PGS | {'masking.min_ratio': 0.3},
    'pgs-tail': PGS | TAIL,
    'pgs-mixed': PGS | {'masking.whole_share': 0.2},
    'text-truncate': TEXT | {'text_masking.strategy': 'truncate'},
    'text-random': TEXT | {'text_masking.strategy': 'random'},
    'text-block': TEXT | {'text_masking.strategy': 'block'},
    'text-frequency': TEXT | {'text_masking.strategy': 'frequency'},
    'pgs-noise': PGS | {'masking.selection_noise': 1.0},
    'edges': BACKGROUND | {'masking.border_weight': 0.0},
    'background': BACKGROUND,
    'pgs-text-frequency': PGS | {'text_masking.strategy': 'frequency', **SHORT},
}
# Strategy and options of benchmarks.mask_options; 'entropy' and 'two scales' are edge maps of its own.
FIXED = {'min_ratio': 0.5, 'max_ratio': 0.5}
OPTION_TRIALS: list[tuple[str, dict[str, Any]]] = [
    ('random', {}),
    ('pgs', FIXED),
    *(('pgs', FIXED | {'edge_weight': weight}) for weight in (0.0, 4.0, 16.0)),
    *(('pgs', FIXED | {'epsilon': epsilon}) for epsilon in (0.03, 0.3)),
    *(('pgs', FIXED | {'candidate_ratio': ratio}) for ratio in (0.02, 0.1)),
    *(('pgs', FIXED | {'edge_detector': name}) for name in ('canny', 'entropy', 'two scales')),
    ('pgs', FIXED | {'selection_noise': 1.0}),
    *(('background', {'border_weight': 0.0, 'edge_window': window}) for window in (3, 5)),
    *(('background', {'border_weight': weight, 'edge_window': 1}) for weight in (4.0, 8.0)),
    ('background', {}),
    ('background', {'edge_window': 5}),
    *(('background', {'selection_noise': noise}) for noise in (1.0, 2.0)),
]
# Masks of this project that the study chooses among, on some seeds and pairs, and confirms on others;
# they are compared to the first one.
CHOICES = (
    'pgs',
    'pgs-0.3',
    'pgs-tail',
    'pgs-mixed',
    'pgs-noise',
    'edges',
    'background',
    'pgs-text-frequency',
)
BASELINES = ('none', 'random')  # to which the others are compared
QUICK = (*BASELINES, 'pgs')  # of `--quick`


def get_config(variant: str = 'pgs'):
    if variant not in VARIANTS:
        raise UserError(f'study.py:{variant} is not a variant: take one of {", ".join(VARIANTS)}')
    changes = VARIANTS[variant]
    config = quickstart.get_config()
    config.eval_masked = False
    config.model.text.tokens_per_pair = None  # text masks decide how many tokens there are
    config.masking.until = 1.0
    if 'masking.until' not in changes:
        config.optimizer.update(tail_rate=0.0, tail_warmup_steps=0)
    config.update_from_flattened_dict(changes)
    return config
