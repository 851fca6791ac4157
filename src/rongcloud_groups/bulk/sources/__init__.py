"""Where group IDs come from."""
