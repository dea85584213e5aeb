"""Forms, one file each: another way to ask for the same fact, which unlearning may never have been shown."""
