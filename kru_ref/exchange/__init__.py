"""To and from elsewhere."""
