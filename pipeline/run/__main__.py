"""`python -m pipeline.run`."""

from pipeline.run import main

if __name__ == "__main__":
    main("run")
