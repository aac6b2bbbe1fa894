"""Tabletop: synthetic ego-exo takes in Ego-Exo4D's release layout, with exact ground truth."""
