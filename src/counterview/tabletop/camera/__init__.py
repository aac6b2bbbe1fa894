"""Cameras of a synthetic take: rig and head camera, rasterizer, sensor noise."""
