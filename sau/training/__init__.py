"""Training: the optimizer on survivors, a training session, finetuning."""
