"""CLIP-PGS in JAX: contrastive image-text pre-training on the patches that matter."""
