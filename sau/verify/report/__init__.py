"""A verdict for people: words, page, plots, answers."""
