"""Times our ViT-B/16 train step beside open_clip_torch's, in one run on the CPU.

  pip install -r requirements-bench.txt
  python -m benchmarks.versus_open_clip [--batch_size=16] [--rounds=5] [--variants=none,pgs-0.5]

Both do a forward, a backward and an AdamW step of the same batch in float32, without gradient
checkpointing, on every core. open_clip masks with its own patch dropout (FLIP) at the ratio of our
row. Ours also turns the pixels to floats and computes the gradient's norm; theirs gets floats. They
take turns, ours, theirs, ours, theirs, with an untimed step before each. The ratio is their seconds
over ours, round by round: above 1, ours is faster.

Only an otherwise idle machine gives a fair ratio: torch's threads wait for each other at the end of
each operation, so that another process on the cores costs it far more than XLA.
"""

import math
import os
import sys
import time
from collections.abc import Callable

import jax
from absl import app, flags

from benchmarks import common

# Row, of common.VARIANTS -> the patch dropout that open_clip is given against it.
ROWS = {'none': 0.0, 'random-0.5': 0.5, 'pgs-0.5': 0.5, 'pgs-0.3-padded': 0.3, 'pgs-0.3': 0.3}

BATCH_SIZE = flags.DEFINE_integer('batch_size', 16, 'Pairs a step.', lower_bound=1)
ROUNDS = flags.DEFINE_integer(
    'rounds', 5, 'Timed turns, an untimed step before each.', lower_bound=1
)
NAMES = flags.DEFINE_list('variants', list(ROWS), f'Which rows, of {", ".join(ROWS)}.')
OUT = flags.DEFINE_string(
    'out', 'runs/benchmarks/versus_open_clip.json', 'Where the figures go; the plot lies beside.'
)


def libraries():
    """(torch, open_clip), or the end with what to install."""
    try:
        import open_clip
        import torch
    except ImportError as error:
        sys.exit(
            'error: this compares with open_clip_torch, which cannot be imported here '
            f'({error}): pip install -r requirements-bench.txt'
        )
    return torch, open_clip


def patch_dropout(ratio: float):
    """The module that open_clip's image tower builds for a ratio."""
    torch, open_clip = libraries()
    return open_clip.transformer.PatchDropout(ratio) if ratio else torch.nn.Identity()


def open_clip_step(config) -> Callable[[float], float]:
    """open_clip's train step as its own training script does it: patch dropout -> loss."""
    torch, open_clip = libraries()
    model = open_clip.create_model('ViT-B-16', precision='fp32').train()
    loss_fn = open_clip.loss.ClipLoss()
    batch = common.random_batch(config)
    images = torch.from_numpy(batch['images']).permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1
    tokens = torch.from_numpy(batch['tokens']).long()

    def decayed(name, parameter):
        return parameter.ndim >= 2 and not any(part in name for part in ('ln', 'bias'))

    parameters = list(model.named_parameters())
    recipe = config.optimizer
    optimizer = torch.optim.AdamW(
        [
            {'params': [p for n, p in parameters if not decayed(n, p)], 'weight_decay': 0.0},
            {'params': [p for n, p in parameters if decayed(n, p)]},
        ],
        lr=recipe.peak_learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.epsilon,
        weight_decay=recipe.weight_decay,
    )

    def step(ratio: float) -> float:
        model.visual.patch_dropout = patch_dropout(ratio)
        optimizer.zero_grad()
        loss = loss_fn(*model(images, tokens))
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        return loss.item()

    return step


def open_clip_tokens(config, ratio: float) -> int:
    """Tokens that open_clip's image tower runs on, the class token among them."""
    torch, _ = libraries()
    image = config.model.image
    patches = (image.image_size // image.patch_size) ** 2
    return patch_dropout(ratio)(torch.zeros(1, patches + 1, 1)).shape[1]


def torch_matmul_peak(size: int = 2048, repeats: int = 8) -> float:
    """FLOP/s of torch's best float32 product of two square matrices, as common.matmul_peak."""
    torch, _ = libraries()
    a = torch.full((size, size), 1 / size)

    def seconds() -> float:
        start = time.perf_counter()
        a @ a
        return time.perf_counter() - start

    seconds()
    return 2 * size**3 / min(seconds() for _ in range(repeats))


def summary(
    ours: list[float], theirs: list[float], tokens: int, their_tokens: int, batch_size: int
) -> dict:
    """Figures of one row from the seconds of each round."""
    figures = {}
    for name, seconds, count in (('ours', ours, tokens), ('open_clip', theirs, their_tokens)):
        spread = common.spread(seconds)
        figures[name] = {
            'tokens': count,
            'seconds': spread,
            'pairs_per_second': batch_size / spread['median'],
        }
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return figures | {'ratio': common.spread(ratios)}


def table(rows: dict[str, dict]) -> str:
    """The figures of each row as text."""

    def cells(name, row):
        ours, theirs, ratio = row['ours'], row['open_clip'], row['ratio']
        return [
            name,
            f'{ours["tokens"]} / {theirs["tokens"]}',
            f'{ours["seconds"]["median"]:.2f}',
            f'{theirs["seconds"]["median"]:.2f}',
            f'{ours["pairs_per_second"]:.2f}',
            f'{theirs["pairs_per_second"]:.2f}',
            f'{ratio["median"]:.2f} ({ratio["min"]:.2f}..{ratio["max"]:.2f})',
        ]

    header = ['row', 'tokens', 's/step', 'open_clip', 'pairs/s', 'open_clip', 'ratio']
    return common.table(header, [cells(*item) for item in rows.items()])


def panels(rows: dict[str, dict]) -> dict:
    """What is drawn: seconds of both, and their ratio."""
    both = {
        side: {n: r[side]['seconds'] for n, r in rows.items()} for side in ('ours', 'open_clip')
    }
    ratios = {n: r['ratio'] for n, r in rows.items()}
    return {'seconds a step': both, 'open_clip over ours': {'': ratios}}


def main(argv):
    del argv
    torch, open_clip = libraries()
    if unknown := set(NAMES.value) - set(ROWS):
        sys.exit(f'error: --variants={unknown.pop()} is no row: take some of {", ".join(ROWS)}')
    jax.config.update('jax_platforms', 'cpu')  # where torch runs
    torch.set_num_threads(os.cpu_count())

    peaks = {'jax': common.matmul_peak(), 'torch': torch_matmul_peak()}
    print(
        f'Matmul peak {peaks["jax"] / 1e9:.0f} GFLOP/s in JAX, {peaks["torch"] / 1e9:.0f} in torch '
        f'(float32). Compiling {len(NAMES.value)} variants',
        flush=True,
    )
    configs = {name: common.variant_config(name, BATCH_SIZE.value) for name in NAMES.value}
    state, compiled = None, {}  # one state goes from variant to variant: memory for one suffices
    for name, config in configs.items():
        compiled[name], state, batch = common.compiled_step(config, state)
    their_step = open_clip_step(config)

    def our_step(name):
        nonlocal state
        state, _ = compiled[name](state, batch)
        return state

    cores = []  # that torch got, on average over a step
    seconds = {name: {'ours': [], 'open_clip': []} for name in configs}
    for turn in range(1, ROUNDS.value + 1):
        for name in configs:
            # The first step of a turn is not timed: what lay idle while the other library ran has
            # gone cold, and a virtual machine may have given it back to its host.
            jax.block_until_ready(our_step(name))
            ours = common.timed(lambda name=name: our_step(name))
            their_step(ROWS[name])
            before = time.process_time()
            theirs = common.timed(lambda name=name: their_step(ROWS[name]))
            cores.append((time.process_time() - before) / theirs)
            seconds[name]['ours'].append(ours)
            seconds[name]['open_clip'].append(theirs)
            print(
                f'round {turn}/{ROUNDS.value}  {name:<11} ours {ours:.2f} s  '
                f'open_clip {theirs:.2f} s',
                flush=True,
            )

    rows = {}
    for name, config in configs.items():
        tokens = common.image_tokens(config), open_clip_tokens(config, ROWS[name])
        rows[name] = summary(*seconds[name].values(), *tokens, BATCH_SIZE.value)
    print(f'\n{table(rows)}')
    if min(cores) < 0.8 * os.cpu_count():
        print(
            f'Warning: torch had {min(cores):.1f} of {os.cpu_count()} cores in one of its turns. '
            'If another process took the rest, the ratio is not fair'
        )
    versions = {'torch': torch.__version__, 'open_clip_torch': open_clip.__version__}
    result = {
        'machine': common.machine() | versions | {'torch_threads': torch.get_num_threads()},
        'torch_cores': common.spread(cores),
        'batch_size': BATCH_SIZE.value,
        'matmul_peak': peaks,
        'rows': rows,
    }
    common.write(OUT.value, result, panels(rows))


if __name__ == '__main__':
    app.run(main)
