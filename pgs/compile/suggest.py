"""Settings for a step that does not fit the memory of a chip."""

from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from pgs.compile.aot import GIB, Report, TooBig, compile_step
from pgs.errors import UserError


def fit(config: ConfigDict, topology: str, log: Callable[[str], None]) -> Report:
    """Compiles a step; if it does not fit, tries settings until one does.

    Args:
      config, topology: as for `compile_step`.
      log: is called with a line about each trial.

    Returns:
      The report of the step that fits; its 'suggestion' is the flags that were added, if any.

    Raises:
      UserError: as `compile_step`.
      TooBig: no setting fits; the report is that of the last trial.
    """
    try:
        return compile_step(config, topology)
    except TooBig as error:
        first = last = error
        log(too_big_message(error.report).split('; should')[0])
    for flags, trial in suggestions(config, first.report):
        log(f'Trying {flags} ...')
        try:
            report = compile_step(trial, topology)
        except TooBig as error:
            last = error
            continue
        except UserError as error:
            log(f'  not possible: {error}')
            continue
        log(f'Fits with {flags}')
        return report | {'suggestion': flags}
    raise last


def too_big_message(report: Report) -> str:
    """How much memory is missing, and the settings that should help, by the sizes that are known."""
    over = report['needed_bytes'] - report['capacity_bytes']
    state = report['state_bytes']
    temporaries = report['needed_bytes'] - state
    advice = []
    if counts := fitting_microbatches(report):
        advice.append(f'--config.microbatches={counts[0]}')
    if report['remat'] != 'full':
        names = "'dots' or 'full'" if report['remat'] == 'none' else "'full'"
        advice.append(f'--config.model.remat={names}')
    fsdp = report['mesh']['fsdp']
    if fsdp < report['devices']:
        saved = state * (1 - fsdp / report['devices'])
        advice.append(f'--config.mesh.fsdp=N (saves up to {saved / GIB:.1f} GiB)')
    return (
        f'does not fit: needs {report["needed_bytes"] / GIB:.2f} GiB a device, '
        f'{over / GIB:.2f} GiB more than the {report["capacity_bytes"] / GIB:.2f} GiB of '
        f'{report["topology"].split(":")[0]} (state {state / GIB:.2f}, the rest about '
        f'{temporaries / GIB:.2f}); should help, one or together: {", ".join(advice)}. '
        '--suggest tries them'
    )


def fitting_microbatches(report: Report) -> list[int]:
    """Numbers of microbatches that should fit, if temporaries shrink with a microbatch's size."""
    temporaries = report['needed_bytes'] - report['state_bytes']
    available = report['capacity_bytes'] - report['state_bytes']
    local, now = report['batch_per_device'], report['microbatches']
    divisors = [n for n in range(now + 1, local + 1) if local % n == 0]
    return [n for n in divisors if temporaries * now / n < 0.9 * available]


def suggestions(config: ConfigDict, report: Report) -> Iterator[tuple[str, ConfigDict]]:
    """Settings to try, the fastest first: (flags, config)."""
    counts = fitting_microbatches(report)[:2] or [report['batch_per_device']]
    dots: dict[str, Any] = {'model.remat': 'dots'} if report['remat'] == 'none' else {}
    full: dict[str, Any] = {'model.remat': 'full'}
    trials = [dots] if dots else []
    trials += [dots | {'microbatches': n} for n in counts]
    trials += [full, *(full | {'microbatches': n} for n in counts)]
    trials.append(
        full
        | {'microbatches': report['batch_per_device']}
        | {'mesh.data': 1, 'mesh.zero': 1, 'mesh.fsdp': report['devices']}
    )
    for changes in trials:
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(changes)
        yield ' '.join(f'--config.{k}={v}' for k, v in changes.items()), changed
