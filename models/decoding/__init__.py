"""From distributions to texts and figures: sampling, completion, scoring. No HTTP, no files."""
