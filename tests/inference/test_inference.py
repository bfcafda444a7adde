"""Embedding and classifying from files and from Python."""

import dataclasses
import os
import subprocess
from pathlib import Path

import numpy as np
import preloaded
import pytest
from PIL import Image

from pgs.errors import UserError
from pgs.inference import classify, embed_images, embed_texts, load_clip
from pgs.inference.embedding import make_embedder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def clip(untrained_clip):
    return load_clip(untrained_clip)


@pytest.fixture
def pictures(tmp_path):
    paths = []
    for number, color in enumerate(('red', 'blue', 'green')):
        paths.append(tmp_path / f'{number}.{"png" if number else "webp"}')
        Image.new('RGB', (40 + number, 50), color).save(paths[-1], lossless=True)
    return paths


def test_features_are_unit_and_one_a_picture(clip, pictures):
    features = embed_images(clip, pictures)
    assert features.shape == (3, 16)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1.0, atol=1e-5)
    opened = embed_images(clip, [Image.open(path) for path in pictures])
    np.testing.assert_allclose(opened, features, atol=1e-6)
    assert embed_images(clip, []).shape == (0, 16)


def test_texts_do_not_depend_on_their_neighbours(clip):
    many = embed_texts(clip, [f'text {i}' for i in range(clip.batch_size + 3)])
    assert len(many) == clip.batch_size + 3
    np.testing.assert_allclose(many[-1:], embed_texts(clip, ['text 514']), atol=1e-6)
    assert embed_texts(clip, []).shape == (0, 16)


def test_texts_are_embedded_packed_where_the_model_was_trained_so(clip):
    text = dataclasses.replace(clip.model.text, tokens_per_pair=4)  # of training: it cuts none here
    packed = make_embedder(
        dataclasses.replace(clip.model, text=text), clip.mesh, clip.batch_size
    ).with_params(clip.params)
    texts = ['a', 'a drawing of a red bird over a photograph of the sea', *['two words'] * 40]
    np.testing.assert_allclose(embed_texts(packed, texts), embed_texts(clip, texts), atol=1e-5)
    assert packed.text_step._cache_size() == 1
    lowered = packed.text_step.lower(packed.params, np.zeros((64, 24), np.int32), 8).as_text()
    assert '14x40x' in lowered  # two groups of 32 captions, 7 rows of 40 slots each


def test_classify_ranks_by_the_softmax_of_the_cosines(clip, pictures):
    labels = ['a dog', 'a cat', 'a tree']
    ranked = classify(clip, pictures[0], labels)
    cosines = embed_texts(clip, labels) @ embed_images(clip, pictures[:1])[0]
    odds = np.exp(100 * cosines)
    expected = dict(zip(labels, odds / odds.sum(), strict=True))
    assert [label for label, _ in ranked] == sorted(labels, key=lambda name: -expected[name])
    for label, share in ranked:
        assert share == pytest.approx(expected[label], rel=1e-3)


def test_bad_input_is_named(clip, tmp_path):
    with pytest.raises(UserError, match='no label'):
        classify(clip, tmp_path / 'x.png', [])
    with pytest.raises(UserError, match=r'x\.png'):
        embed_images(clip, [tmp_path / 'x.png'])
    (tmp_path / 'y.png').write_bytes(b'no image')
    with pytest.raises(UserError, match=r'y\.png: not a readable image'):
        embed_images(clip, [tmp_path / 'y.png'])


def run(*command):
    environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
    return subprocess.run(
        [*preloaded.python(), '-m', *map(str, command)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_the_commands(untrained_clip, clip, pictures, tmp_path):
    (tmp_path / 'texts.txt').write_text('a dog\n' + 'a ' * 90 + '\n')
    out = tmp_path / 'emb.npz'
    arguments = f'--images={tmp_path}', f'--texts={tmp_path / "texts.txt"}', f'--out={out}'
    done = run('pgs.embed', f'--checkpoint={untrained_clip}', *arguments)
    assert done.returncode == 0, done.stderr
    assert '3 images, 2 texts, 1 of them cut to 24 tokens' in done.stdout
    with np.load(out) as features:
        assert features['image_paths'].tolist() == ['0.webp', '1.png', '2.png']
        np.testing.assert_allclose(
            features['image_features'], embed_images(clip, pictures), atol=1e-5
        )
        assert features['texts'][0] == 'a dog'
    done = run(
        'pgs.classify',
        f'--checkpoint={untrained_clip}',
        f'--image={pictures[0]}',
        '--labels=a dog,a cat',
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert {line.split('%')[1].strip() for line in lines} == {'a dog', 'a cat'}
    for command in (['pgs.classify'], ['pgs.embed', f'--checkpoint={tmp_path}', '--texts=absent']):
        failed = run(*command)
        assert failed.returncode == 1
        assert failed.stderr.strip().splitlines()[-1].startswith('error: ')
