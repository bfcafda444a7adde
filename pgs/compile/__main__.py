"""Compiles the train step for a TPU slice that is not attached, and reports what it would need.

  python -m pgs.compile --config=configs/vitb16_pgs.py:0.3 --topology=v5e:8x8

The step is that of training, with its state sharding, donation, remat and microbatches. The command
prints the memory of one chip by kind, FLOPs, memory traffic, collectives, and a roofline estimate.
It exits with status 1 if the step does not fit. Any key of the config is a flag:
--config.batch_size=16384.

  --compare=none,random,pgs   strategies side by side, with estimated relative training time (R.T.T.)
  --suggest                   if the step does not fit, tries settings until one does
  --json                      the report for programs
"""

import json

import jax
from absl import flags, logging
from ml_collections import config_flags

from pgs.compile.aot import TooBig
from pgs.compile.run import baseline_index, compile_all, with_strategies
from pgs.compile.suggest import too_big_message
from pgs.compile.table import NOTE, table
from pgs.convert.architecture import with_architecture
from pgs.errors import UserError
from pgs.utils import cli

CONFIG = config_flags.DEFINE_config_file('config', None, 'File with get_config().')
TOPOLOGY = flags.DEFINE_string('topology', 'v5e:8x8', 'Slice to compile for: v4, v5e, v5p, v6e.')
COMPARE = flags.DEFINE_list('compare', [], 'Strategies to compile side by side.')
SUGGEST = flags.DEFINE_bool('suggest', False, 'If it does not fit, try settings until one does.')
JSON = flags.DEFINE_bool('json', False, 'Print JSON and nothing else.')


def log(line: str) -> None:
    if not JSON.value:
        print(line, flush=True)


def main(argv: list[str]) -> None:
    del argv
    jax.config.update('jax_platforms', 'cpu')  # do not use this machine's own accelerators
    configs = with_strategies(with_architecture(CONFIG.value), COMPARE.value)
    try:
        reports = compile_all(configs, TOPOLOGY.value, SUGGEST.value, log)
    except TooBig as error:
        if JSON.value:
            print(json.dumps({'fits': False} | error.report))
        raise UserError(f'{error.report["strategy"]} {too_big_message(error.report)}') from error
    if JSON.value:
        print(json.dumps([{'fits': True} | r for r in reports], indent=2))
    else:
        print('\n' + table(reports, baseline_index(configs)) + '\n\n' + NOTE)


if __name__ == '__main__':
    cli.run(
        main, cli.config_parser(CONFIG, str(cli.CONFIGS / 'vitb16_pgs.py')), verbosity=logging.ERROR
    )
