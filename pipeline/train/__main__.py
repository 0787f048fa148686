"""`python -m pipeline.train`."""

from pipeline.run import main

if __name__ == "__main__":
    main("train")
