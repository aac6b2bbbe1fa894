"""Training of the bundled models, stage by stage: backbone, object crops, head, re-ranker, proposers, tiny-follow."""
