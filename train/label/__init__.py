"""Labels made by models: an ensemble over varied crops, how far it agrees with itself, and lists written from it."""
