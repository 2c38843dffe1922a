"""`python -m kernel_generator`: the command line."""

from kernel_generator.cli.program import run

if __name__ == "__main__":
    run()
