"""The two towers of CLIP and what joins them."""

from pgs.models.clip import CLIP, build_model, normalize_images

__all__ = ['CLIP', 'build_model', 'normalize_images']
