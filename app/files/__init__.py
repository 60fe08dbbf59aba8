"""Files of users, of any size at constant memory: texts to score, n-best lists to rescore, outputs. No HTTP."""
