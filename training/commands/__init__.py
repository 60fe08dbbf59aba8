"""The commands: arguments to functions, results to the terminal. They compute nothing themselves."""
