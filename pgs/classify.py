"""Ranks labels for an image.

python -m pgs.classify --checkpoint=runs/pgs-0.3 --image=x.jpg --labels="a dog,a cat"
"""

import sys

from absl import flags, logging

from pgs.errors import UserError
from pgs.inference import classify, load_clip
from pgs.utils import cli

CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'Model: a run, a folder or an OpenCLIP file.')
MODEL_CONFIG = flags.DEFINE_string('model_config', None, "OpenCLIP's model JSON of a bare file.")
IMAGE = flags.DEFINE_string('image', None, 'Image file.')
LABELS = flags.DEFINE_list('labels', [], 'Labels to choose between, by comma.')
TEMPLATE = flags.DEFINE_string('template', '{c}', 'What {c}, a label, is put into.')


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    try:
        if len(argv) > 1 or not (CHECKPOINT.value and IMAGE.value and LABELS.value):
            raise UserError('give --checkpoint, --image and --labels="a dog,a cat"')
        labels = [label.strip() for label in LABELS.value if label.strip()]
        if '{c}' not in TEMPLATE.value:
            raise UserError(f'--template={TEMPLATE.value!r} lacks {{c}}, where the label goes')
        clip = load_clip(CHECKPOINT.value, model_config=MODEL_CONFIG.value)
        for label, share in classify(clip, IMAGE.value, labels, templates=[TEMPLATE.value]):
            print(f'{share:7.1%}  {label}')
    except UserError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    cli.run(main)
