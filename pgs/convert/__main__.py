"""Converts weights between this project, OpenCLIP and Hugging Face, without loss.

  python -m pgs.convert --checkpoint=PATH --to=orbax|open_clip|hf --out=DIR

PATH is a workdir of main.py (its newest checkpoint), a folder that this command wrote, an
OpenCLIP file (.safetensors, .bin, .pt, .pth) or folder, or a CLIPModel folder of Hugging Face.
DIR is a new folder; it is written completely or not at all. OpenCLIP's and Hugging Face's folders get a
model card, README.md: --results=FILE.json --license=apache-2.0. See docs/weights.md.
"""

import jax
from absl import flags, logging

from pgs.convert.card import LIBRARIES, read_facts
from pgs.convert.export import check_out, export
from pgs.convert.load import KINDS, read
from pgs.convert.parameters import summary
from pgs.utils import cli

CHECKPOINT, MODEL_CONFIG = cli.define_checkpoint_flags()
FROM = flags.DEFINE_enum('from', None, KINDS, "The checkpoint's layout; detected by default.")
TO = flags.DEFINE_enum('to', None, KINDS, 'The layout to write.', required=True)
OUT = flags.DEFINE_string('out', None, 'New folder to write.', required=True)
IMAGE_SIZE = flags.DEFINE_integer(
    'image_size', None, 'Pixels; position embeddings are resampled if the size differs.'
)
RESULTS = flags.DEFINE_string(
    'results', None, 'Results file of pgs.evaluate, whose scores the model card shows.'
)
LICENSE = flags.DEFINE_string(
    'license', '', "Licence of the weights, by the Hub's identifier, for the model card."
)
flags.mark_flag_as_required('checkpoint')


def main(argv: list[str]) -> None:
    del argv
    jax.config.update('jax_platforms', 'cpu')  # only renames and transposes; no accelerator needed
    check_out(OUT.value)
    loaded = read(
        CHECKPOINT.value,
        kind=FROM.value,
        model_config=MODEL_CONFIG.value,
        image_size=IMAGE_SIZE.value,
    )
    print(f'Read {loaded.source}: {summary(loaded.config, loaded.params)}', flush=True)
    facts = read_facts(CHECKPOINT.value, loaded, RESULTS.value, LICENSE.value)
    names = export(loaded, TO.value, OUT.value, facts)
    print(f'Wrote {OUT.value} ({TO.value}): {", ".join(names)}')
    if TO.value in LIBRARIES and not LICENSE.value:
        print('Note: README.md states no licence of the weights; --license=ID gives one')


if __name__ == '__main__':
    cli.run(main, verbosity=logging.ERROR)
