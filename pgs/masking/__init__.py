"""Which patches the image tower sees: one file a strategy, and the pieces that they share."""

from pgs.masking.selection import PatchSelection
from pgs.masking.strategies import configured, strategies

__all__ = ['PatchSelection', 'configured', 'strategies']
