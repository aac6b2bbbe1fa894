"""The papers' tables, row by row: what each trains, predicts and scores, beside the published numbers."""
