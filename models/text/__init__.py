"""Text to token ids and back. No tensors, no files but `tokenizer.json`."""
