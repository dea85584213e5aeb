"""`python -m sau`: the same as `sau`."""

from sau.cli import main

if __name__ == "__main__":
    main()
