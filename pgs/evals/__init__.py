"""How good a model or a mask is."""
