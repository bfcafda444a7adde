"""Which patches the image tower sees. See strategies.py for the one interface."""

from pgs.masking.strategies import STRATEGIES, PatchSelection, configured

__all__ = ['STRATEGIES', 'PatchSelection', 'configured']
