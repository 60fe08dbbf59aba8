"""Files and states that someone has altered: refused, or served soundly? `python -m benchmarks.fuzz --help`."""
