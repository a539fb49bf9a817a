"""Raw documents → indexed pretraining data (App. B.1): rules, duplicates, quality scores, sampling rates. Used by
`tools/build_corpus.py` alone."""
