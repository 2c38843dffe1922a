"""How a language model is asked."""
