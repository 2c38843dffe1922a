"""The judge: builds, inputs, references, tolerances, timing and the verdict."""
