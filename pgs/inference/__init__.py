"""A trained model as functions: load it, embed images and texts, rank labels.

clip = load_clip('runs/pgs-0.3')
features = embed_images(clip, ['a.jpg', 'b.jpg'])
ranked = classify(clip, 'a.jpg', ['a dog', 'a cat'])
"""

from pgs.inference.clip import classify, embed_images, embed_texts, load_clip

__all__ = ['classify', 'embed_images', 'embed_texts', 'load_clip']
