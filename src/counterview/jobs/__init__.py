"""Bulk work: a list of tasks, done in this process, by a pool of processes, or by Ray on many machines."""
