"""A run as one value, the pipeline that carries it out, and what many of them are put together to."""
