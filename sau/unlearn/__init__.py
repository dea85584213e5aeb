"""Training under a mask: finetuning, and unlearning by any objective with any redistribution."""
