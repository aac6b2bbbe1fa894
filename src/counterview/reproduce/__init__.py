"""The papers' tables, row by row: what is trained, predicted and scored for each, and what was published."""
