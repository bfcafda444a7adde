"""Which patches the image tower sees: one file a strategy, and the pieces that they share."""

from pgs.masking.selection import PatchSelection
from pgs.masking.strategies import configured, known_strategies

__all__ = ['PatchSelection', 'configured', 'known_strategies']
