"""Where data sets are, and readers of their files."""
