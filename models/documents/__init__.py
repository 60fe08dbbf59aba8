"""Readers of users' files, for training, bulk work and the library."""
