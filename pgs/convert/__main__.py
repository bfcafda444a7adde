"""Converts weights between this project, OpenCLIP and Hugging Face, without loss.

  python -m pgs.convert --checkpoint=PATH --to=orbax|open_clip|hf --out=DIR

PATH is a workdir of main.py (its newest checkpoint), a folder that this command wrote, an
OpenCLIP file (.safetensors, .bin, .pt, .pth) or folder, or a CLIPModel folder of Hugging Face.
DIR is a new folder, written whole or not at all. See docs/weights.md.
"""

import sys

import jax
from absl import flags, logging

from pgs.convert.export import check_out, export
from pgs.convert.load import KINDS, read
from pgs.convert.parameters import summary
from pgs.errors import UserError
from pgs.utils import cli

CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'What to read.', required=True)
FROM = flags.DEFINE_enum('from', None, KINDS, 'Its layout; recognised where not set.')
TO = flags.DEFINE_enum('to', None, KINDS, 'The layout to write.', required=True)
OUT = flags.DEFINE_string('out', None, 'New folder to write.', required=True)
MODEL_CONFIG = flags.DEFINE_string(
    'model_config', None, "OpenCLIP's model JSON, for an OpenCLIP file with none beside it."
)
IMAGE_SIZE = flags.DEFINE_integer(
    'image_size', None, 'Pixels; position embeddings are resampled where it differs.'
)


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.ERROR)
    jax.config.update('jax_platforms', 'cpu')  # nothing is computed
    try:
        check_out(OUT.value)
        loaded = read(
            CHECKPOINT.value,
            kind=FROM.value,
            model_config=MODEL_CONFIG.value,
            image_size=IMAGE_SIZE.value,
        )
        print(f'Read {loaded.source}: {summary(loaded.config, loaded.params)}', flush=True)
        names = export(loaded, TO.value, OUT.value)
        print(f'Wrote {OUT.value} ({TO.value}): {", ".join(names)}')
    except UserError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    cli.run(main)
