"""Scores of prediction files: no method and no torch, so that the predictions of anybody can be scored."""
