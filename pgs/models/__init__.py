"""The two towers of CLIP and their common embedding space."""

from pgs.models.clip import CLIP, build_model, normalize_images

__all__ = ['CLIP', 'build_model', 'normalize_images']
