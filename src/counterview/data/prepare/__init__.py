"""``counterview prepare``: the Ego-Exo4D release as images and annotations that open fast."""
