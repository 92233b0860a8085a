"""Scripts that run outside the toolkit, in any environment: they import nothing of ours, so they can be copied."""
