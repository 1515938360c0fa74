"""Reading a model that nobody vouches for, and writing what was made of it."""
