"""The graph that passes rewrite, and the only files that know how it is held and written."""
