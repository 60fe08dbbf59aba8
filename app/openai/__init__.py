"""The API that clients of OpenAI and evaluation harnesses know, made of the tasks. Differences stand here alone."""
