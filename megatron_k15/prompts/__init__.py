"""Problems in: files and reasoning-gym tasks → tokenized `Prompt`s, drawn by curriculum and success rate (§2.3.4)."""
