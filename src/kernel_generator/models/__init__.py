"""How a language model is asked: one small protocol, one module per dialect."""
