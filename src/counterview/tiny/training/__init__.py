"""Training of our own networks: tasks of the training engine, and what they read."""
