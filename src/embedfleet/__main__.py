"""`python -m embedfleet` is the same as `embedfleet`."""

from embedfleet.cli import main

if __name__ == "__main__":
    main()
