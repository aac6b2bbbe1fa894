"""Training of LM-EEC: clips, the unrolled network, losses, validation."""
