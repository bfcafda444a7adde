"""Figures of a run: masks and curves."""

import io
import os
import textwrap

import matplotlib
import numpy as np
from einops import rearrange, repeat
from matplotlib.figure import Figure

from pgs.masking.starvation import RARELY
from pgs.run.held_out import MASKED
from pgs.utils.files import write_whole

MASKED_GREY = 235
STARVATION_COLUMNS = 8  # images

matplotlib.rcParams['font.size'] = 9


def hide_masked(image_HxWx3: np.ndarray, visible_L: np.ndarray, patch_size: int) -> np.ndarray:
    """The image with its masked patches greyed out, uint8 (H, W, 3)."""
    rows = image_HxWx3.shape[0] // patch_size
    grid = rearrange(visible_L, '(r c) -> r c', r=rows)
    pixels = repeat(grid, 'r c -> (r p) (c q) 1', p=patch_size, q=patch_size)
    return np.where(pixels, image_HxWx3, MASKED_GREY).astype(np.uint8)


def masks_figure(
    images_NxHxWx3: np.ndarray,
    edges_NxL: np.ndarray,
    visible_NxL: dict[str, np.ndarray],
    captions: list[str],
    patch_size: int,
    credit: str,
) -> Figure:
    """One row for each image: the image, its edges, what each strategy leaves visible, its caption.

    Args:
      images_NxHxWx3: uint8.
      edges_NxL: edge scores in [0, 1].
      visible_NxL: strategy's name -> bool, True for a patch that the tower sees.
      captions: N texts.
      patch_size: pixels.
      credit: text at the bottom.
    """
    count, columns = len(images_NxHxWx3), 2 + len(visible_NxL)
    figure = Figure(figsize=(1.35 * columns + 1.8, 1.4 * count + 0.5), layout='constrained')
    axes = figure.subplots(count, columns + 1, squeeze=False, width_ratios=[1] * columns + [1.3])
    rows = images_NxHxWx3.shape[1] // patch_size
    for i, image in enumerate(images_NxHxWx3):
        axes[i, 0].imshow(image)
        axes[i, 1].imshow(edges_NxL[i].reshape(rows, -1), cmap='magma', vmin=0, vmax=1)
        for axis, visible in zip(axes[i, 2:-1], visible_NxL.values(), strict=True):
            axis.imshow(hide_masked(image, visible[i], patch_size))
            axis.set_xlabel(f'{1 - visible[i].mean():.0%} masked', fontsize=7, labelpad=2)
        caption = textwrap.fill(captions[i], 20)
        # Without parse_math, text between dollar signs would be read as a formula.
        axes[i, -1].text(0, 0.5, caption, va='center', fontsize=8, parse_math=False)
        axes[i, -1].axis('off')
    for axis, title in zip(axes[0], ['image', 'edges', *visible_NxL, ''], strict=True):
        axis.set_title(title)
    for axis in axes[:, :-1].flat:
        axis.set(xticks=[], yticks=[])
    figure.text(0.995, 0.002, credit, ha='right', va='bottom', fontsize=6, color='0.4')
    figure.set_layout_engine('constrained', rect=(0, 0.02, 1, 0.98))
    return figure


def starvation_figure(images_NxHxWx3: np.ndarray, seen_NxL: np.ndarray, credit: str) -> Figure:
    """The first images, below each of them how often its patches are seen; starved ones are red.

    Args:
      images_NxHxWx3: uint8.
      seen_NxL: shares of the draws, see pgs/masking/starvation.py.
      credit: text at the bottom.
    """
    shown = min(len(images_NxHxWx3), STARVATION_COLUMNS)
    colors = matplotlib.colormaps['viridis'].with_extremes(under='#d62828')
    figure = Figure(figsize=(1.3 * shown + 1.2, 3.0), layout='constrained')
    axes = figure.subplots(2, shown, squeeze=False)
    for (above, below), image, seen_L in zip(axes.T, images_NxHxWx3, seen_NxL, strict=False):
        above.imshow(image)
        side = round(len(seen_L) ** 0.5)
        drawn = below.imshow(seen_L.reshape(side, side), cmap=colors, vmin=RARELY, vmax=1)
        below.set_xlabel(f'{(seen_L < RARELY).mean():.0%} starved', fontsize=7, labelpad=2)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    bar = figure.colorbar(drawn, ax=axes, extend='min', fraction=0.05)
    bar.set_label(f'share of the draws; red: below {RARELY:.0%}', fontsize=7)
    figure.text(0.995, 0.002, credit, ha='right', va='bottom', fontsize=6, color='0.4')
    figure.set_layout_engine('constrained', rect=(0, 0.04, 1, 0.96))
    return figure


def curves_figure(records: list[dict]) -> Figure:
    """Loss, held-out recall, masked fraction and learning rate over the steps.

    The recall at 5 of masked images is drawn too, where it was scored.

    Args:
      records: lines of metrics.jsonl; training lines have 'loss', evaluations 'eval/...'.
    """
    train = [r for r in records if 'loss' in r]
    scored = [r for r in records if 'eval/text_recall@5' in r]
    figure = Figure(figsize=(9, 5.4), layout='constrained')
    axes = figure.subplots(2, 2)
    panels = (
        ('loss', 'loss (InfoNCE)', axes[0, 0]),
        ('mask_ratio', 'masked fraction', axes[1, 0]),
        ('learning_rate', 'learning rate', axes[1, 1]),
    )
    for key, title, axis in panels:
        axis.plot([r['step'] for r in train], [r[key] for r in train])
        axis.set_title(title)
    recall = axes[0, 1]
    recall.set_title('held-out recall')
    for style, name in (
        ('-', '{}_recall@1'),
        ('--', '{}_recall@5'),
        ('-.', MASKED + '{}_recall@5'),
    ):
        for key in (name.format('text'), name.format('image')):
            points = [(r['step'], r[f'eval/{key}']) for r in scored if f'eval/{key}' in r]
            if points:
                recall.plot(*zip(*points, strict=True), style, marker='o', label=key)
    if scored:
        recall.axhline(scored[-1]['eval/chance@5'], color='0.5', lw=1, ls=':', label='chance@5')
        recall.legend(fontsize=7)
    else:
        recall.text(0.5, 0.5, 'no validation split', ha='center', transform=recall.transAxes)
    for axis in axes.flat:
        axis.set_xlabel('step')
        axis.grid(alpha=0.3)
    return figure


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure as PNG; creates its folder."""
    image = io.BytesIO()
    figure.savefig(image, dpi=150, format='png')
    write_whole(path, image.getvalue())
