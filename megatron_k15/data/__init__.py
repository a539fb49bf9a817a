"""Data of the supervised stages: rows → tokens on the disk → which of them each optimizer step sees."""
