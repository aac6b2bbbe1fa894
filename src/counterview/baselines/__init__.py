"""Matchers without training, against which the trained ones are measured: nearest neighbour, colour, same place."""
