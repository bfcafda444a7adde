"""Scores a model on the paper's tables, or on other sets.

  python -m pgs.evaluate --checkpoint=runs/pgs-0.3 --tasks=classification,retrieval --data_root=DATA

--checkpoint is a run's folder, a folder that pgs.convert wrote, or an OpenCLIP file (docs/weights.md).
--tasks is a comma-separated list of tasks and groups:
  classification  17 sets, zero-shot      robustness   6 ImageNets, zero-shot
  retrieval       COCO, Flickr8k, 30k     linear_probe CIFAR-10, -100, ImageNet
  sugar_crepe     7 subsets               paper        all of the above
  zeroshot/SET, retrieval/SET, linear_probe/SET, sugar_crepe/SUBSET   one; SET may be any folder
--data_root holds one folder per set in CLIP-benchmark's layout, or TFDS sets (docs/evaluation.md).
Absent sets are listed and the others are scored. The same command again scores what is left.
Then: python -m pgs.report results.json
"""

from pathlib import Path

from absl import flags

from pgs.errors import UserError
from pgs.evaluate.resumable import evaluate_checkpoint
from pgs.evaluate.tasks import GROUPS, expand
from pgs.inference.masking import HELP, WHOLE
from pgs.utils import cli, compile_cache, distributed

CHECKPOINT, MODEL_CONFIG = cli.define_checkpoint_flags()
MASKING = flags.DEFINE_string('masking', WHOLE, HELP)
TASKS = flags.DEFINE_list('tasks', ['paper'], 'Tasks and groups.')
DATA_ROOT = flags.DEFINE_string('data_root', '~/clip_benchmark', 'Folder of the sets.')
OUT = flags.DEFINE_string('out', 'results.json', 'Results file, written task by task.')
NAME = flags.DEFINE_string('name', None, "Row's name in pgs.report; the checkpoint's by default.")
AUTHORS = flags.DEFINE_boolean(
    'authors_weights', False, "The weights are those of the paper's authors: pgs.report says so."
)
BATCH_SIZE = flags.DEFINE_integer('batch_size', 64, 'Images or texts per device.', lower_bound=1)


def main(argv: list[str]) -> None:
    del argv
    if not CHECKPOINT.value:
        raise UserError('give --checkpoint=RUN_OR_FOLDER_OR_FILE; see --help')
    names = expand(TASKS.value)
    distributed.start()
    compile_cache.use(compile_cache.DEFAULT)
    results = evaluate_checkpoint(
        CHECKPOINT.value,
        names,
        DATA_ROOT.value,
        Path(OUT.value).expanduser(),
        model_config=MODEL_CONFIG.value,
        masking=MASKING.value,
        row_name=NAME.value,
        authors_weights=AUTHORS.value,
        batch_size=BATCH_SIZE.value,
    )
    in_tables = results['tasks'].keys() & GROUPS['paper']
    tables = f' Tables: python -m pgs.report {OUT.value}' if in_tables else ''
    distributed.print_once(f'Written: {OUT.value}.{tables}')
    if results['failed']:
        raise UserError(f'{len(results["failed"])} task(s) failed, see above')


if __name__ == '__main__':
    cli.run(main)
