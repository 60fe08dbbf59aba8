"""Words as users see them: unknown words and their spelling, next words, completions of begun words."""
