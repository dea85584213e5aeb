"""Models: what one is, how rows go in, what comes out, which layers it has, where it comes from."""
