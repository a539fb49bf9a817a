"""Answers sampled, judged and chosen: what SFT, DPO, curation and evaluation are made of."""
