"""HTTP/2 for small POSTs."""
