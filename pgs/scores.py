"""What a trained model is worth: held-out recall, object retention, figures, results.json."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from input_pipeline import images as image_ops
from input_pipeline import openmoji
from input_pipeline.eval_sets import image_batches
from input_pipeline.sources import captions_of
from pgs import visualize
from pgs.evals import object_retention, retrieval
from pgs.evals.embedding import Embedder
from pgs.evals.run import progress
from pgs.masking import STRATEGIES, configured
from pgs.masking.edges import edge_scores
from pgs.metrics import read_metrics
from pgs.models import CLIP, normalize_images
from pgs.workdir import write_json

RETENTION_IMAGES = 200
FIGURE_ROWS = 3  # of the data set, and as many of objects over photographs
SCORE_NAMES = (
    'val_loss', 'text_recall@1', 'text_recall@5', 'image_recall@1', 'image_recall@5',
    'chance@1', 'chance@5', 'n_eval',
)  # fmt: skip


def held_out_scorer(embedder: Embedder, source) -> Callable[[dict], dict]:
    """params -> retrieval.pair_scores of a source of pairs; all None where there is no source."""
    if source is None:
        return lambda params: dict.fromkeys(SCORE_NAMES)

    def samples():
        for index in range(len(source)):
            record = source[index]
            yield source.location(index), record['image'], captions_of(record)[0]

    def score(params) -> dict:
        with_params = embedder.with_params(params)
        bar = progress(samples(), 'Scoring held-out pairs', ' pairs', len(source))
        features = [
            (with_params.images(images), with_params.texts(captions))
            for images, captions in image_batches(
                bar, image_size=embedder.image_size, batch_size=embedder.batch_size
            )
        ]
        images_NxE, texts_NxE = (np.concatenate(side) for side in zip(*features, strict=True))
        scale = float(jnp.exp(params['logit_scale']))
        return retrieval.pair_scores(images_NxE, texts_NxE, scale)

    return score


def objects_over_photographs(image_size: int, count: int):
    """OpenMoji images over photographs, the same ones always.

    Returns:
      (uint8 (count, H, W, 3), opacity uint8 (count, H, W), names).
    """
    items = sorted((i for s in openmoji.splits().values() for i in s), key=openmoji.item_hash)
    rgba = np.stack([openmoji.render(stem, image_size) for stem, _ in items[:count]])
    white = np.stack([openmoji.over_white(r) for r in rgba])
    behind = object_retention.photographs(image_size)
    mixed = object_retention.over_photographs(white, rgba[..., 3], behind)
    return mixed, rgba[..., 3], [name for _, name in items[:count]]


def make_select(model: CLIP, masking: dict, patch_size: int, *, seed: int, progress: float):
    """Jitted (params, images uint8) -> PatchSelection of a strategy."""
    strategy = configured(masking, patch_size)

    def select(images, patch_embeddings):
        return strategy(jax.random.key(seed), images, patch_embeddings, progress)

    def apply(params, images):
        normalized = normalize_images(images)
        return model.apply({'params': params}, normalized, select, method=CLIP.select_patches)

    return jax.jit(apply)


def mean_object_retention(config, model: CLIP, params) -> float:
    """Retention of the configured strategy at one half masked, with the trained embeddings."""
    image = config.model.image
    images, opacity, _ = objects_over_photographs(image.image_size, RETENTION_IMAGES)
    objects = object_retention.object_patches(opacity, image.patch_size)
    masking = object_retention.at_half(dict(config.masking))
    select = make_select(model, masking, image.patch_size, seed=config.seed, progress=1.0)
    return object_retention.retention(jax.device_get(select(params, images)), objects)


def draw_masks(config, model: CLIP, params, source, path: epath.Path) -> None:
    """figures/masks.png: a few images of the data set, then objects over photographs."""
    image = config.model.image
    size, patch = image.image_size, image.patch_size
    step = max(len(source) // FIGURE_ROWS, 1)
    records = source.__getitems__(list(range(0, len(source), step))[:FIGURE_ROWS])
    own = [image_ops.centre_crop(r['image'], image_size=size) for r in records]
    mixed, _, names = objects_over_photographs(size, FIGURE_ROWS)
    images = np.concatenate([np.stack(own), mixed])
    captions = [captions_of(r)[0] for r in records]
    captions += [f'{name}, over a photograph' for name in names]
    visible = {}
    for name in STRATEGIES:
        masking = dict(config.masking) | {'strategy': name}
        select = make_select(model, masking, patch, seed=config.seed, progress=1.0)
        selection = jax.device_get(select(params, images))
        visible[name] = object_retention.visible_patches(selection, (size // patch) ** 2)
    edges = np.asarray(edge_scores(normalize_images(images), patch))
    credit = f'{openmoji.CREDIT}. Photographs: scikit-image.'
    figure = visualize.masks_figure(images, edges, visible, captions, patch, credit)
    visualize.save(figure, path)


def finish(
    config, model: CLIP, params, source, scores: dict, rate: float, workdir: epath.Path
) -> dict:
    """Draws the figures, writes results.json and prints the summary.

    Args:
      scores: of the trained model on held-out pairs.
      rate: training pairs a second, 0 where this call trained nothing.

    Returns:
      The content of results.json.
    """
    records = read_metrics(workdir / 'metrics.jsonl')
    trained = [r for r in records if 'loss' in r]
    last = trained[-1]
    if not rate:
        rate = float(np.median([r['pairs_per_second'] for r in trained]))
    results = {
        'step': last['step'],
        'loss': last['loss'],
        'pairs_per_second': rate,
        'mask_ratio_mean': float(np.mean([r['mask_ratio'] for r in trained])),
        **{name: scores[name] for name in SCORE_NAMES},
        'object_retention': mean_object_retention(config, model, params),
    }
    figures = workdir / 'figures'
    draw_masks(config, model, params, source, figures / 'masks.png')
    visualize.save(visualize.curves_figure(records), figures / 'curves.png')
    write_json(workdir / 'results.json', results)
    print(summary(results, records, workdir), flush=True)
    return results


def summary(results: dict, records: list[dict], workdir: epath.Path) -> str:
    """The last lines on the console."""
    lines = [
        '',
        f'Trained {results["step"]} steps at {results["pairs_per_second"]:.1f} pairs/s, '
        f'loss {results["loss"]:.3f}, {results["mask_ratio_mean"]:.1%} of the patches masked.',
        f'Object retention at one half masked: {results["object_retention"]:.2f} (random: 0.50).',
    ]
    if results['n_eval']:
        first = next((r for r in records if 'eval/chance@5' in r), {})
        lines.append(f'Held out ({results["n_eval"]} pairs):    now   step 0   chance')
        for k in (1, 5):
            for direction in ('text', 'image'):
                key = f'{direction}_recall@{k}'
                before = first.get(f'eval/{key}', float('nan'))
                lines.append(
                    f'  {key:<17} {results[key]:>9.1%} {before:>8.1%} {results[f"chance@{k}"]:>8.1%}'
                )
    lines.append(f'Files in {workdir}: results.json, figures/masks.png, figures/curves.png,')
    lines.append('  metrics.jsonl, checkpoints/ (tensorboard --logdir reads the events there)')
    return '\n'.join(lines)
