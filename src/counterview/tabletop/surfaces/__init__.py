"""Materials, textures and printed labels of a synthetic take."""
