"""How it is known to be right."""
