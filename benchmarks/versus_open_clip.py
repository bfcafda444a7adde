"""Times our ViT-B/16 train step beside open_clip_torch's, in one run on the CPU.

  pip install -r requirements-bench.txt
  python -m benchmarks.versus_open_clip [--batch_size=16] [--rounds=5] [--variants=none,pgs-0.5]

Both do a forward, a backward and an AdamW step of the same batch in float32, without gradient
checkpointing, on all cores. open_clip masks with its own patch dropout (FLIP), with the same ratio
as our row. Ours also converts the pixels to floats and computes the norm of the gradient; theirs
gets floats. They take turns, ours, theirs, ours, theirs, with an untimed step before each. The
ratio is their seconds divided by ours, round by round: above 1, ours is faster.

The ratio is fair only on an otherwise idle machine: torch's threads wait for each other at the end
of each operation, so that another process on the cores slows torch down far more than XLA.
"""

import contextlib
import functools
import os
import time
from typing import Any

with contextlib.suppress(ImportError):  # open_clip_step says what to install
    import torchvision  # noqa: F401  # before TensorFlow: with its LLVM in the process, Triton's crashes

import jax
from absl import flags
from ml_collections import ConfigDict

from benchmarks import common, open_clip_step
from benchmarks.plots import Panels
from pgs.utils import cli

# Variant of common.VARIANTS -> ratio of the patch dropout that open_clip is compared with.
ROWS = {'none': 0.0, 'random-0.5': 0.5, 'pgs-0.5': 0.5, 'pgs-0.3-padded': 0.3, 'pgs-0.3': 0.3}

BATCH_SIZE = flags.DEFINE_integer('batch_size', 16, 'Pairs in a step.', lower_bound=1)
ROUNDS = flags.DEFINE_integer(
    'rounds', 5, 'Timed rounds, with an untimed step before each turn.', lower_bound=1
)
NAMES = flags.DEFINE_list('variants', list(ROWS), f'Which, of {", ".join(ROWS)}.')
OUT = flags.DEFINE_string(
    'out', 'runs/benchmarks/versus_open_clip.json', 'Path of the results; the plot is beside it.'
)


def summary(
    ours: list[float], theirs: list[float], tokens: float, their_tokens: int, batch_size: int
) -> dict[str, Any]:
    """Results of one variant, from the seconds of each round."""
    sides = {}
    for name, seconds, count in (('ours', ours, tokens), ('open_clip', theirs, their_tokens)):
        spread = common.spread(seconds)
        sides[name] = {
            'tokens': count,
            'seconds': spread,
            'pairs_per_second': batch_size / spread['median'],
        }
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return sides | {'ratio': common.spread(ratios)}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The results of all variants as text."""

    def cells(name: str, row: dict[str, Any]) -> list[str]:
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


def panels(rows: dict[str, dict[str, Any]]) -> Panels:
    """Seconds of both, and their ratio, to be drawn."""
    both = {
        side: {n: r[side]['seconds'] for n, r in rows.items()} for side in ('ours', 'open_clip')
    }
    ratios = {n: r['ratio'] for n, r in rows.items()}
    return {'seconds a step': both, 'open_clip over ours': {'': ratios}}


def measure(
    configs: dict[str, ConfigDict], rounds: int
) -> tuple[dict[str, dict[str, list[float]]], list[float]]:
    """Times both libraries in turns.

    Args:
      configs: name of a variant -> its config; they differ in the masking only.
      rounds: number of rounds.

    Returns:
      (variant -> {'ours': seconds of each round, 'open_clip': the same}, number of cores that
      torch had in each of its turns).
    """
    state, compiled = None, {}  # all variants use one state, which saves memory
    for name, config in configs.items():
        compiled[name], state, batch = common.compiled_step(config, state)
    their_step = open_clip_step.make_step(config)

    def our_step(name: str) -> Any:
        nonlocal state
        state, _ = compiled[name](state, batch)
        return state

    cores = []
    seconds: dict[str, dict[str, list[float]]] = {
        name: {'ours': [], 'open_clip': []} for name in configs
    }
    for number in range(1, rounds + 1):
        for name in configs:
            # The first step of a turn is not timed: memory that was idle while the other library
            # ran is no longer in the caches, and a virtual machine may have returned it to its host.
            jax.block_until_ready(our_step(name))
            ours = common.timed(functools.partial(our_step, name))
            their_step(ROWS[name])
            before = time.process_time()
            theirs = common.timed(functools.partial(their_step, ROWS[name]))
            cores.append((time.process_time() - before) / theirs)
            seconds[name]['ours'].append(ours)
            seconds[name]['open_clip'].append(theirs)
            print(
                f'round {number}/{rounds}  {name:<11} ours {ours:.2f} s  open_clip {theirs:.2f} s',
                flush=True,
            )
    return seconds, cores


def main(argv: list[str]) -> None:
    del argv
    torch, open_clip = open_clip_step.libraries()
    batch_size, num_cores = BATCH_SIZE.value, os.cpu_count() or 1
    configs = {name: common.variant_config(name, batch_size) for name in NAMES.value}
    jax.config.update('jax_platforms', 'cpu')  # where torch runs
    torch.set_num_threads(num_cores)

    peaks = {'jax': common.matmul_peak(), 'torch': open_clip_step.matmul_peak()}
    print(
        f'Matmul peak {peaks["jax"] / 1e9:.0f} GFLOP/s in JAX, {peaks["torch"] / 1e9:.0f} in torch '
        f'(float32). Compiling {len(configs)} variants',
        flush=True,
    )
    seconds, cores = measure(configs, ROUNDS.value)
    rows = {}
    for name, config in configs.items():
        tokens = common.image_tokens(config), open_clip_step.count_tokens(config, ROWS[name])
        ours, theirs = seconds[name]['ours'], seconds[name]['open_clip']
        rows[name] = summary(ours, theirs, *tokens, batch_size)
    print(f'\n{table(rows)}')
    if min(cores) < 0.8 * num_cores:
        print(
            f'Warning: torch had {min(cores):.1f} of {num_cores} cores in one of its turns. '
            'If another process used the others, the ratio is not fair'
        )
    versions = {'torch': torch.__version__, 'open_clip_torch': open_clip.__version__}
    result = {
        'machine': common.machine() | versions | {'torch_threads': torch.get_num_threads()},
        'torch_cores': common.spread(cores),
        'batch_size': batch_size,
        'matmul_peak': peaks,
        'rows': rows,
    }
    common.write(OUT.value, result, panels(rows))


if __name__ == '__main__':
    cli.run(main)
