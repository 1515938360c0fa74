"""What was done and found, as data, tables and a page."""
