"""What is read off a graph and changes nothing in it."""
