"""Tracks in and out: our own ``tracks.json``, and the formats of annotation tools, one file a format."""
