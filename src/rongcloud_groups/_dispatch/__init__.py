"""Which IDs go into which request, and who gets the outcome."""
