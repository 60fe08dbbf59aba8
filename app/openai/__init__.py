"""The API that clients of OpenAI and evaluation harnesses know."""
