"""Embeds the images of a folder and the lines of a text file.

  python -m pgs.embed --checkpoint=runs/pgs-0.3 --images=DIR --texts=FILE --out=emb.npz

--texts has one text a line. The .npz holds image_features and text_features, unit float32 (N, E),
image_paths (relative to DIR, sorted) and texts; without --images or --texts its part is absent.
"""

from absl import flags

from pgs.errors import UserError
from pgs.inference import load_clip
from pgs.inference.files import read_inputs, write_features
from pgs.inference.masking import HELP, WHOLE
from pgs.utils import cli, compile_cache

CHECKPOINT, MODEL_CONFIG = cli.define_checkpoint_flags()
MASKING = flags.DEFINE_string('masking', WHOLE, HELP)
IMAGES = flags.DEFINE_string('images', None, 'Folder, searched with its subfolders.')
TEXTS = flags.DEFINE_string('texts', None, 'File with one text a line.')
OUT = flags.DEFINE_string('out', 'emb.npz', 'File to write the features to.')


def main(argv: list[str]) -> None:
    del argv
    if not CHECKPOINT.value or not (IMAGES.value or TEXTS.value):
        raise UserError('give --checkpoint, and --images or --texts or both; see --help')
    inputs = read_inputs(IMAGES.value, TEXTS.value)
    compile_cache.use(compile_cache.DEFAULT)
    clip = load_clip(CHECKPOINT.value, model_config=MODEL_CONFIG.value, masking=MASKING.value)
    print(write_features(clip, inputs, OUT.value))


if __name__ == '__main__':
    cli.run(main)
