"""Measures where the masks of this project and those of the published PGS code differ, and by how much.

  python -m benchmarks.published_masks [--out=runs/benchmarks/published_masks.json]

The published code's definitions are restated here in NumPy, step by step, from their description in
docs/masking.md; each is run on photographs of scikit-image at 224 pixels, beside the definition of
this project. Takes a few seconds. Shapes: N images, L patches, D values of a patch.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import flags
from einops import rearrange

from input_pipeline.photographs import PHOTOGRAPHS, photographs
from pgs.masking.edges import edge_scores
from pgs.masking.generation import draw_candidates
from pgs.masking.pgs import pgs
from pgs.masking.selection import mask_ratio
from pgs.masking.similarity import patch_similarity, pixel_patches
from pgs.masking.transport import balance
from pgs.models import normalize_images
from pgs.utils import cli
from pgs.utils.files import write_json

OUT = flags.DEFINE_string('out', 'runs/benchmarks/published_masks.json', 'Path of the figures.')
SIZE, PATCH, SIDE = 224, 16, 14  # pixels, pixels, patches
LENGTH = SIDE * SIDE
SINKHORN_STEPS = 50
CANDIDATES = 0.05
THRESHOLD = 0.5
DRAWS = 100


def standardised(images_NxHxWx3: np.ndarray, dtype: Any) -> np.ndarray:
    """Pixel patches with mean 0 and variance 1: (N, L, D)."""
    patches = np.asarray(pixel_patches(images_NxHxWx3, PATCH)).astype(dtype)
    centred = patches - patches.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(centred.var(axis=-1, ddof=1, keepdims=True) + dtype(1e-6))


def published_edges(images_NxHxWx3: np.ndarray, dtype: Any) -> np.ndarray:
    """Sobel on the map of the means of standardised patches, which are 0 but for rounding: (N, L)."""
    means = rearrange(standardised(images_NxHxWx3, dtype).mean(-1), 'n (h w) -> n h w', h=SIDE)
    padded = np.pad(means, ((0, 0), (1, 1), (1, 1)))
    down = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    across = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    gradient = np.hypot(down[:, :, 2:] - down[:, :, :-2], across[:, 2:] - across[:, :-2])
    return gradient.reshape(-1, LENGTH)


def rank_correlation(a_NxL: np.ndarray, b_NxL: np.ndarray) -> float:
    """Spearman's, mean over images."""
    ranks = [np.argsort(np.argsort(x, axis=1), axis=1) for x in (a_NxL, b_NxL)]
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*ranks, strict=True)]))


def edge_figures(images: np.ndarray) -> dict[str, float]:
    exact = published_edges(images, np.float64)
    single = published_edges(images, np.float32)
    ours = [np.asarray(edge_scores(images.astype(t), PATCH)) for t in (np.float32, np.float16)]
    return {
        'largest published edge before rescaling, float64': float(exact.max()),
        'published edges, float32 against float64, rank correlation': rank_correlation(
            single, exact
        ),
        'edges here, float32 against float16 images, rank correlation': rank_correlation(*ours),
    }


def candidate_figures(images: np.ndarray) -> dict[str, float]:
    """Mean edge score of candidates: one is the patch with the strongest edges of its image."""
    edges = np.asarray(edge_scores(images, PATCH))
    rng, count = np.random.default_rng(0), round(CANDIDATES * LENGTH)
    published, here = [], []
    for number in range(DRAWS):
        # The score is added to uniform noise, and the last patches in ascending order are dropped.
        order = np.argsort(rng.random(edges.shape) + edges, axis=1)
        published.append(np.take_along_axis(edges, order[:, -count:], axis=1).mean())
        ids = draw_candidates(jax.random.key(number), -8.0 * edges, CANDIDATES)
        here.append(np.take_along_axis(edges, np.asarray(ids), axis=1).mean())
    return {
        'mean edge score of all patches': float(edges.mean()),
        'of published candidates': float(np.mean(published)),
        'of candidates here': float(np.mean(here)),
    }


def published_balance(similarity_NxLxL: np.ndarray) -> np.ndarray:
    """Rows and columns of a signed matrix divided by their sums in turn, SINKHORN_STEPS times."""
    out = similarity_NxLxL.copy()
    for _ in range(SINKHORN_STEPS):
        out = out / out.sum(axis=2, keepdims=True)
        out = out / out.sum(axis=1, keepdims=True)
    return out


def published_masks(images: np.ndarray, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """(balanced matrix (N, L, L), masked bool (N, L)): L times it above THRESHOLD for a candidate."""
    patches = standardised(images, dtype)
    unit = patches / np.linalg.norm(patches, axis=-1, keepdims=True)
    plan = published_balance(np.einsum('nid,njd->nij', unit, unit))
    anchors = np.random.default_rng(0).random((len(images), LENGTH)).argsort(1)[:, -10:]
    rows = np.take_along_axis(plan, anchors[:, :, None], axis=1)
    return plan, (rows > THRESHOLD / LENGTH).any(axis=1)


def transport_figures(images: np.ndarray) -> dict[str, float]:
    (plan, masked), (_, single) = (published_masks(images, t) for t in (np.float64, np.float32))
    similarity = patch_similarity(images, np.zeros((len(images), LENGTH, 1)), 0.0, patch_size=PATCH)
    here = np.exp(np.asarray(balance(similarity, 0.1)))
    tokens = np.zeros((len(images), LENGTH, 1), np.float32)
    ratios = mask_ratio(pgs(jax.random.key(0), images, tokens, 0.0, patch_size=PATCH), LENGTH)
    return {
        'largest entry of the published plan': float(np.abs(plan).max()),
        'largest error of its row sums': float(np.abs(plan.sum(axis=2) - 1).max()),
        'largest entry of the plan here': float(here.max()),
        'largest error of the row sums here': float(np.abs(here.sum(axis=2) - 1).max()),
        'published mask: patches that differ, float32 from float64': float(
            (masked != single).mean()
        ),
        'published masked fraction, smallest image': float(masked.mean(axis=1).min()),
        'published masked fraction, largest image': float(masked.mean(axis=1).max()),
        'masked fraction here, smallest image': float(ratios.min()),
        'masked fraction here, largest image': float(ratios.max()),
    }


def attention_figures() -> dict[str, float]:
    """Share of attention on masked keys if a mask of 0 and 1 is added to the logits, half masked."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(DRAWS, 197))
    kept = rng.permuted(np.arange(197)[None].repeat(DRAWS, 0), axis=1) < 99
    weights = np.exp(logits + kept)
    share = (weights * ~kept).sum(axis=1) / weights.sum(axis=1)
    return {
        'attention that published masked tokens still get, one half masked': float(share.mean())
    }


def length_figures(images: np.ndarray) -> dict[str, float]:
    """Different shapes that the longest image of each of DRAWS batches would give."""
    tokens = np.zeros((len(images), LENGTH, 1), np.float32)
    select = jax.jit(
        lambda key: pgs(key, images, tokens, 0.0, patch_size=PATCH, min_ratio=0.3, long_share=1.0)
    )
    kept = [
        int(np.asarray(select(jax.random.key(k)).valid).sum(axis=1).max()) for k in range(DRAWS)
    ]
    return {
        f'numbers of tokens in {DRAWS} batches, by the batch': float(len(set(kept))),
        'numbers of tokens here': 1.0,
    }


def table(figures: Mapping[str, float]) -> str:
    return '\n'.join(f'{value:>12.4g}  {name}' for name, value in figures.items())


def main(argv: list[str]) -> None:
    del argv
    images = np.asarray(normalize_images(photographs(SIZE)), np.float32)
    figures = (
        edge_figures(images)
        | candidate_figures(images)
        | transport_figures(images)
        | attention_figures()
        | length_figures(images)
    )
    write_json(OUT.value, {'images': list(PHOTOGRAPHS), 'figures': figures})
    print(f'{table(figures)}\nWritten: {OUT.value}')


if __name__ == '__main__':
    cli.run(main)
