"""BatchNormalization, and what is like it, goes into the linear operators beside it."""
