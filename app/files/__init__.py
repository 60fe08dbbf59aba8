"""Files of users: texts to score, n-best lists to rescore."""
