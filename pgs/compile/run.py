"""Compiles the train step with one strategy, or with several of them to compare."""

from collections.abc import Callable

from ml_collections import ConfigDict

from pgs.compile.aot import Report, compile_step, masks_nothing
from pgs.compile.suggest import fit


def with_strategies(config: ConfigDict, names: list[str]) -> list[ConfigDict]:
    """A copy of a config for each strategy; of the config itself if there are no names."""
    configs = []
    for name in names or [config.masking.strategy]:
        changed = config.copy_and_resolve_references()
        changed.masking.strategy = name
        configs.append(changed)
    return configs


def compile_all(
    configs: list[ConfigDict], topology: str, suggest: bool, log: Callable[[str], None]
) -> list[Report]:
    """Compiles the step of each config.

    Args:
      configs: as configs/base.py.
      topology: a name such as 'v5e:8x8'.
      suggest: if a step does not fit, try settings until one does.
      log: is called with lines about the progress.

    Raises:
      UserError: as `compile_step`.
      TooBig: a step that does not fit.
    """
    reports = []
    for config in configs:
        log(
            f'Compiling {config.masking.strategy} for {topology}: some minutes; '
            'a fifth of them with --config.model.unroll=1 ...'
        )
        reports.append(fit(config, topology, log) if suggest else compile_step(config, topology))
    return reports


def baseline_index(configs: list[ConfigDict]) -> int:
    """The config that others are compared with: the first that masks nothing, else the first."""
    return next((i for i, config in enumerate(configs) if masks_nothing(config)), 0)
