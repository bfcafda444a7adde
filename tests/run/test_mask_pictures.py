"""Pictures of masks on one's own images."""

import io

import numpy as np
import pytest
from PIL import Image

from pgs.errors import UserError
from pgs.run import mask_pictures


@pytest.fixture
def folder(tmp_path, photos):
    """A photograph, a grey image, one with transparency, one smaller than a patch, one damaged."""
    Image.fromarray(photos[0]).save(tmp_path / 'a_photo.png')
    Image.fromarray(photos[1]).convert('L').save(tmp_path / 'b_grey.jpg')
    Image.fromarray(photos[2]).convert('RGBA').save(tmp_path / 'c_alpha.png')
    Image.fromarray(photos[3][:5, :7]).save(tmp_path / 'd_small.png')
    (tmp_path / 'e_damaged.jpg').write_bytes(b'not an image')
    return tmp_path


def test_unusual_images_are_named_and_the_rest_is_drawn(folder):
    said = []
    subject = mask_pictures.untrained()
    pictures = mask_pictures.own_pictures(str(folder), 8, subject, said.append)
    assert pictures.images.shape == (4, 224, 224, 3)
    assert pictures.names == ['a_photo.png', 'b_grey.jpg', 'c_alpha.png', 'd_small.png']
    assert [line.split(' ')[:2] for line in said] == [
        ['note:', 'c_alpha.png'],
        ['note:', 'd_small.png'],
        ['warning:', 'e_damaged.jpg'],
    ]
    assert 'has 7 x 5 pixels, less than a patch of 16' in said[1]
    assert len(mask_pictures.own_pictures(str(folder), 2, subject, said.append).names) == 2


def test_a_folder_without_readable_images_is_refused(tmp_path):
    subject = mask_pictures.untrained()
    with pytest.raises(UserError, match='holds no image'):
        mask_pictures.own_pictures(str(tmp_path), 8, subject, print)
    (tmp_path / 'x.jpg').write_bytes(b'no image')
    with pytest.raises(UserError, match='none of its images can be read'):
        mask_pictures.own_pictures(str(tmp_path), 8, subject, print)


def test_an_unknown_strategy_is_named_and_the_known_ones_stay():
    said = []
    assert mask_pictures.chosen_strategies(['pgs', 'randon'], said.append) == ['pgs']
    assert said[0].startswith('warning: strategy randon is unknown: did you mean random? known are')
    with pytest.raises(UserError, match='names no strategy'):
        mask_pictures.chosen_strategies(['randon'], said.append)
    assert {'pgs', 'random', 'none'} <= set(mask_pictures.chosen_strategies(['all'], print))


def test_without_a_model_the_strategies_that_need_one_are_left_out(folder, tmp_path):
    said = []
    subject = mask_pictures.untrained()
    pictures = mask_pictures.own_pictures(str(folder), 1, subject, said.append)
    figure = mask_pictures.draw(subject, pictures, ['random', 'attentive'], 0.0, said.append)
    assert [a.get_title() for a in figure.axes[:4]] == ['image', 'edges', 'random', '']
    assert said == [
        'warning: strategy attentive is left out: its attention needs a trained model: '
        'give --checkpoint'
    ]
    with pytest.raises(UserError, match='no strategy is left'):
        mask_pictures.draw(subject, pictures, ['attentive'], 0.0, said.append)


def test_a_gif_shows_how_progress_changes_the_masks(folder, untrained_clip):
    subject = mask_pictures.trained(str(untrained_clip), None)
    assert (subject.image_size, subject.patch_size) == (32, 8)
    pictures = mask_pictures.own_pictures(str(folder), 2, subject, lambda line: None)
    said = []
    content = mask_pictures.animation(subject, pictures, ['pgs', 'random'], said.append)
    assert said == []
    with Image.open(io.BytesIO(content)) as gif:
        # Frames that are alike are one frame that stays longer.
        assert 1 < gif.n_frames <= mask_pictures.FRAMES
        first = np.asarray(gif.convert('RGB'))
        gif.seek(gif.n_frames - 1)
        assert (np.asarray(gif.convert('RGB')) != first).any()
