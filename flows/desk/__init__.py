"""The desk: the officer's pages, for people who use no terminal."""
