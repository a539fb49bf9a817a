"""One file per Hugging Face family."""
