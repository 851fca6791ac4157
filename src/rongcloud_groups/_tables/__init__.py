"""Profiles as rows and columns."""
