"""`python -m kernel_generator`: the command line."""

from kernel_generator.cli.app import main

if __name__ == "__main__":
    main()
