"""Draws the masks of strategies on one's own images.

  python -m pgs.visualize --images=DIR [--strategies=all] [--checkpoint=RUN] --out=masks.png
  python -m pgs.visualize --images=DIR --checkpoint=RUN --out=masks.gif

Without --checkpoint the masks are those of the first step of a run, in which similarity is that of
pixels; with it, those of the trained model. A .gif shows how a mask changes from the first step to
the last, as similarity moves from pixels to the model's embeddings.
"""

from pathlib import Path

from absl import flags

from pgs.errors import UserError
from pgs.run import figures, mask_pictures
from pgs.utils import cli, compile_cache
from pgs.utils.files import write_whole, writing

IMAGES = flags.DEFINE_string('images', None, 'Folder, searched with its subfolders.')
STRATEGIES = flags.DEFINE_list('strategies', ['all'], 'Names of strategies, by comma, or all.')
CHECKPOINT, MODEL_CONFIG = cli.define_checkpoint_flags()
LIMIT = flags.DEFINE_integer('limit', 8, 'Number of images, the first by name.', lower_bound=1)
OUT = flags.DEFINE_string('out', 'masks.png', 'File to write, .png or .gif.')


def say(line: str) -> None:
    print(line, flush=True)


def main(argv: list[str]) -> None:
    del argv
    if not IMAGES.value:
        raise UserError('give --images=DIR, a folder of images; see --help')
    kind = Path(OUT.value).suffix.lower()
    if kind not in ('.png', '.gif'):
        raise UserError(f'--out={OUT.value} must end in .png or .gif')
    if kind == '.gif' and not CHECKPOINT.value:
        raise UserError('a .gif shows what training changes: give --checkpoint too, or a .png')
    strategies = mask_pictures.chosen_strategies(STRATEGIES.value, say)
    compile_cache.use(compile_cache.DEFAULT)
    if CHECKPOINT.value:
        subject = mask_pictures.trained(CHECKPOINT.value, MODEL_CONFIG.value)
    else:
        subject = mask_pictures.untrained()
    pictures = mask_pictures.own_pictures(IMAGES.value, LIMIT.value, subject, say)
    out = Path(OUT.value).expanduser()
    if kind == '.png':
        figure = mask_pictures.draw(subject, pictures, strategies, subject.progress, say)
        with writing(f'--out={out}'):
            figures.save(figure, out)
    else:
        content = mask_pictures.animation(subject, pictures, strategies, say)
        with writing(f'--out={out}'):
            write_whole(out, content)
    print(f'Masks of {len(pictures.names)} images: {out}')


if __name__ == '__main__':
    cli.run(main)
