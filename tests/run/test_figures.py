"""Figures: what is hidden, and that every series is drawn."""

import numpy as np

from pgs.run.figures import MASKED_GREY, curves_figure, hide_masked, masks_figure, save


def test_masked_patches_are_grey_and_the_rest_untouched(photos):
    visible = np.zeros(196, bool)
    visible[[0, 15]] = True  # rows 0 and 1, columns 0 and 1
    hidden = hide_masked(photos[0], visible, 16)
    np.testing.assert_array_equal(hidden[:16, :16], photos[0, :16, :16])
    np.testing.assert_array_equal(hidden[16:32, 16:32], photos[0, 16:32, 16:32])
    assert (hidden[:16, 16:] == MASKED_GREY).all()


def test_masks_figure_has_a_row_an_image_and_the_credit(photos, tmp_path):
    edges = np.random.default_rng(0).uniform(size=(2, 196))
    visible = {'a': np.ones((2, 196), bool), 'b': np.arange(392).reshape(2, 196) % 4 > 0}
    figure = masks_figure(photos[:2], edges, visible, ['one', 'two'], 16, 'credit')
    axes = np.array(figure.axes).reshape(2, 5)
    assert [a.get_title() for a in axes[0]] == ['image', 'edges', 'a', 'b', '']
    assert axes[1, 3].get_xlabel() == '25% masked'
    assert axes[1, 4].texts[0].get_text() == 'two'
    assert figure.texts[0].get_text() == 'credit'
    save(figure, tmp_path / 'figures' / 'masks.png')
    assert (tmp_path / 'figures' / 'masks.png').read_bytes()[:4] == b'\x89PNG'


def test_curves():
    train = [
        {'step': s, 'loss': 1 / s, 'mask_ratio': 0.4, 'learning_rate': 1e-3} for s in range(1, 4)
    ]
    keys = ('text_recall@1', 'image_recall@1', 'text_recall@5', 'image_recall@5', 'chance@5')
    scored = [{'step': s} | {f'eval/{k}': 0.1 * s for k in keys} for s in (0, 3)]
    axes = curves_figure(train + scored).axes
    np.testing.assert_array_equal(axes[0].lines[0].get_ydata(), [1.0, 0.5, 1 / 3])
    assert len(axes[1].lines) == 5
    masked = {'step': 4, 'eval/chance@5': 0.1} | {f'eval/{k}': 0.2 for k in keys}
    masked |= {f'eval/masked/{k}': 0.3 for k in keys[2:4]}
    axes = curves_figure([*train, *scored, masked]).axes  # a log from before masked scores goes on
    lines = {line.get_label(): line.get_xdata() for line in axes[1].lines}
    assert len(lines) == 7
    np.testing.assert_array_equal(lines['masked/text_recall@5'], [4])
    np.testing.assert_array_equal(lines['text_recall@5'], [0, 3, 4])
    assert 'no validation' in curves_figure(train).axes[1].texts[0].get_text()


def test_a_caption_with_dollar_signs_is_no_formula(photos, tmp_path):
    """Matplotlib would stop at an unknown command, at the end of the run."""
    visible = {'a': np.ones((1, 196), bool)}
    figure = masks_figure(photos[:1], np.zeros((1, 196)), visible, ['$\\foo{$'], 16, '')
    save(figure, tmp_path / 'masks.png')
    assert (tmp_path / 'masks.png').stat().st_size > 1000
