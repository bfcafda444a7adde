"""Packed captions: embeddings and gradients of unpacked ones, what is cut, and what is counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline.tokenizer import END_OF_TEXT, padded
from pgs.models import packing
from pgs.models.clip import unit_norm
from pgs.models.text_tower import TextTower, TextTowerSettings
from pgs.models.transformer import TransformerSettings

T = 20
BLOCKS = TransformerSettings(
    width=32,
    layers=2,
    heads=4,
    mlp_ratio=2.0,
    causal=True,
    quick_gelu=False,
    dtype=jnp.float32,
    remat='none',
)
TOWER = TextTower(
    TextTowerSettings(context_length=T, vocab_size=49408, embed_dim=16, transformer=BLOCKS)
)


def captions(lengths, seed=0) -> np.ndarray:
    """Captions of these numbers of tokens, with start and end: int32 (B, T)."""
    rng = np.random.default_rng(seed)
    return padded([rng.integers(1, 40_000, n - 2).tolist() for n in lengths], T)


@pytest.fixture(scope='module')
def params():
    return TOWER.init(jax.random.key(0), captions([3]))


@pytest.mark.parametrize('batch', [1, 6, 32, 64])
def test_embeddings_and_gradients_are_those_of_unpacked_captions(params, batch):
    tokens = captions([T, *np.random.default_rng(1).integers(2, 12, batch - 1)])
    budget = packing.fitting_budget(tokens)
    weights = np.random.default_rng(2).normal(size=(batch, 16))

    def loss(params, budget):
        return (unit_norm(TOWER.apply(params, tokens, budget)) * weights).mean()

    np.testing.assert_allclose(
        TOWER.apply(params, tokens, budget), TOWER.apply(params, tokens), atol=1e-5
    )
    if batch > 1:
        assert budget < T  # so that something is packed
    packed, plain = (jax.grad(loss)(params, b) for b in (budget, None))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), packed, plain)


def test_a_budget_that_cuts_changes_only_captions_that_are_cut(params):
    tokens = captions([T, T, T, 4, 3, 5, 2, 9])  # 83 tokens in two rows of 40 slots
    budget = 6
    kept = np.asarray(packing.place(packing.lengths_of(tokens)[None], budget, T)[0])[0]
    assert kept.tolist() == [19, 19, 19, 4, 3, 5, 2, 9]
    cut = tokens.copy()
    cut[:3, 18], cut[:3, 19:] = END_OF_TEXT, 0  # as the tokenizer cuts: the end token stays
    np.testing.assert_allclose(
        TOWER.apply(params, tokens, budget), TOWER.apply(params, cut), atol=1e-5
    )
    assert float(packing.cut_share(tokens, budget)) == 3 / 8


@pytest.mark.parametrize('budget', [2, 3, 7, 12])
def test_captions_never_share_a_slot_and_keep_two_tokens(budget):
    width, rows = packing.row_width(T), packing.row_count(32, budget, T)
    lengths = np.random.default_rng(budget).integers(2, T + 1, (40, 32))
    kept, starts = (np.asarray(x) for x in packing.place(lengths, budget, T))
    assert (kept >= 2).all()
    for group in range(40):
        used = np.zeros(rows * width, int)
        for start, count in zip(starts[group], kept[group], strict=True):
            used[start : start + count] += 1
            assert start // width == (start + count - 1) // width  # within a row
        assert used.max() == 1


def test_captions_do_not_see_each_other(params):
    tokens = captions([5, 9, 7, 3])
    other = tokens.copy()
    other[1] = captions([6], seed=9)[0]
    before, after = (np.asarray(TOWER.apply(params, t, 10)) for t in (tokens, other))
    np.testing.assert_allclose(before[[0, 2, 3]], after[[0, 2, 3]], atol=1e-6)
    assert np.abs(before[1] - after[1]).max() > 1e-3


def test_slots_hold_each_token_once():
    tokens = captions([2, 7, T, 4])
    packed = packing.pack(jnp.asarray(tokens), 12)
    captions_S, tokens_S, positions_S = (
        np.asarray(x).ravel() for x in (packed.captions, packed.tokens, packed.positions)
    )
    for number, row in enumerate(tokens):
        own = captions_S == number
        assert tokens_S[own].tolist() == row[: packing.lengths_of(row[None])[0]].tolist()
        assert positions_S[own].tolist() == list(range(own.sum()))
    assert (tokens_S[captions_S == 4] == 0).all()
    assert (tokens_S[np.asarray(packed.ends_gxn)[0]] == END_OF_TEXT).all()


@pytest.mark.parametrize('lengths', [[2] * 32, [8] * 32, [9] * 32, [2] * 31 + [T], [T] * 32])
def test_the_fitting_budget_cuts_none_and_is_small(lengths):
    tokens = captions(lengths)
    budget = packing.fitting_budget(tokens)
    assert np.mean(lengths) <= budget < np.mean(lengths) + 2 * packing.STEP
    assert budget == T or float(packing.cut_share(tokens, budget)) == 0.0
