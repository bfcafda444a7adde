"""Ranks labels for an image.

python -m pgs.classify --checkpoint=runs/pgs-0.3 --image=x.jpg --labels="a dog,a cat"
"""

from absl import flags

from pgs.errors import UserError
from pgs.inference import classify, load_clip
from pgs.inference.masking import HELP, WHOLE
from pgs.utils import cli, compile_cache

CHECKPOINT, MODEL_CONFIG = cli.define_checkpoint_flags()
MASKING = flags.DEFINE_string('masking', WHOLE, HELP)
IMAGE = flags.DEFINE_string('image', None, 'Image file.')
LABELS = flags.DEFINE_list('labels', [], 'Comma-separated labels to choose between.')
TEMPLATE = flags.DEFINE_string('template', '{c}', 'Prompt in which {c} is replaced by a label.')


def main(argv: list[str]) -> None:
    del argv
    if not (CHECKPOINT.value and IMAGE.value and LABELS.value):
        raise UserError('give --checkpoint, --image and --labels="a dog,a cat"')
    labels = [label.strip() for label in LABELS.value if label.strip()]
    if '{c}' not in TEMPLATE.value:
        raise UserError(f'--template={TEMPLATE.value!r} lacks {{c}}, the place of the label')
    compile_cache.use(compile_cache.DEFAULT)
    clip = load_clip(CHECKPOINT.value, model_config=MODEL_CONFIG.value, masking=MASKING.value)
    for label, share in classify(clip, IMAGE.value, labels, templates=[TEMPLATE.value]):
        print(f'{share:7.1%}  {label}')


if __name__ == '__main__':
    cli.run(main)
