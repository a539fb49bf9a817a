"""Rows of JSONL and Parquet files that users give us, and what is wrong with them."""
