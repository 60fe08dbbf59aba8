"""`python -m app`: serve, and the model's tasks for the terminal and for files. A command reads, prints and exits."""
