"""Connections, and which one is next."""
