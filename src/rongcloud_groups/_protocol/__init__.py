"""The service's protocol: no I/O and no clock."""
