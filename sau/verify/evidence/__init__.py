"""Evidence: what is read of a model, and what that cost."""
