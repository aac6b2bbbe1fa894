"""Object masks: run lengths, image files, geometry and overlays."""
