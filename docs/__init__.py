"""Documents, and the script that writes the schemas."""
