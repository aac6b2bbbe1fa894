"""What all our networks share: one way to save, load, upload and identify a model, one calibration, a few layers."""
