"""Training of O-MaMa: samples, loss, validation, and the task of the training engine."""
