"""The plan of benchmarks.study: how many steps each variant gets, decided once for each variant.

plan.json: version, data, batch_size, steps_of_none; and for each variant its settings, the FLOPs of
a step, the seconds of a step relative to no mask, the steps at each of POINTS, and the machine.
"""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import common
from benchmarks.study_runs import POINTS, flops_a_step, variant_config
from configs.study import VARIANTS
from pgs.errors import UserError
from pgs.inference.masking import WHOLE
from pgs.utils.console import progress_bar
from pgs.utils.files import read_json, write_json

VERSION = 3  # of plan.json and the files of runs
ROUNDS = 7  # of the time of a step
SAME = (
    0.1  # numbers of steps that differ by less share a run; step times are hardly surer than that
)

Plan = dict[str, Any]


def step_seconds(names: Sequence[str], data: str, batch_size: int) -> dict[str, float]:
    """Seconds of a mean step of each variant relative to WHOLE's: medians of rounds in turns."""
    programs: dict[str, Any] = {}
    shares: dict[str, float] = {}
    for name in progress_bar(names, 'Compiling the steps', ' variants', len(names)):
        config = variant_config(name, data=data, batch_size=batch_size, steps=1000, seed=0)
        programs[name], shares[name] = common.compiled_step(config), config.masking.until
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in progress_bar(range(ROUNDS + 1), 'Timing the steps', ' rounds', ROUNDS + 1):
        for name in names if number % 2 else reversed(names):
            step, state, batch = programs[name]
            start = time.perf_counter()
            state, _ = jax.block_until_ready(step(state, batch))
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - start)
            programs[name] = step, state, batch
    ratios = {
        name: statistics.median(a / b for a, b in zip(times[name], times[WHOLE], strict=True))
        for name in names
    }
    return {name: shares[name] * r + 1.0 - shares[name] for name, r in ratios.items()}


def steps_at_points(steps: int, flops: float, seconds: float) -> dict[str, int]:
    """Steps of a variant at each of POINTS.

    Args:
      steps: of the model without a mask.
      flops, seconds: of a step of the variant relative to a step without a mask.
    """
    found: dict[str, int] = {}
    for point, ratio in zip(POINTS, (1.0, flops, seconds), strict=True):
        wanted = round(steps / ratio)
        near = [n for n in found.values() if abs(n - wanted) <= SAME * wanted]
        found[point] = near[-1] if near else wanted
    return found


def planned(names: Sequence[str], data: str, batch_size: int, steps: int) -> dict[str, Plan]:
    """name -> what is decided for a variant. Its times are those of one moment."""
    flops = {name: flops_a_step(name, data, batch_size) for name in names}
    seconds = step_seconds(names, data, batch_size)
    machine = common.machine()
    return {
        name: {
            'settings': VARIANTS[name],
            'flops_of_step': flops[name],
            'seconds_of_step': seconds[name],
            'steps': steps_at_points(steps, flops[name] / flops[WHOLE], seconds[name]),
            'machine': machine,
        }
        for name in names
    }


def open_plan(path: Path, names: Sequence[str], data: str, batch_size: int, steps: int) -> Plan:
    """The plan of a study with what it decides for these variants; adds those that it lacks.

    Raises:
      UserError: a plan of another command, of another version, of other settings of a variant, or
        one that cannot be read.
    """
    fixed = {'version': VERSION, 'data': data, 'batch_size': batch_size, 'steps_of_none': steps}
    plan: Plan = fixed | {'variants': {}}
    if path.exists():
        try:
            plan = read_json(path)
            different = [key for key in fixed if plan[key] != fixed[key]]
            known: Mapping[str, Plan] = plan['variants']
            settings = json.loads(json.dumps(VARIANTS))
            different += [n for n in names if n in known and known[n]['settings'] != settings[n]]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f'{path} is no plan of a study ({error}): give another --out'
            ) from error
        if different:
            raise UserError(
                f'{path} is of another study, it differs in {", ".join(different)}: give the same '
                'flags to go on, or another --out'
            )
    if missing := [name for name in names if name not in plan['variants']]:
        timed = missing if WHOLE in missing else [WHOLE, *missing]
        new = planned(timed, data, batch_size, steps)
        plan['variants'] |= {name: new[name] for name in missing}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, plan)
    return plan | {'variants': {name: plan['variants'][name] for name in names}}
