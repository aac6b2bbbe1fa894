"""A proposed mask, drawn again in an enlarged window around it. Ours; neither paper has it."""
