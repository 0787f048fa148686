"""`python -m pipeline.localize`."""

from pipeline.run import main

if __name__ == "__main__":
    main("localize")
