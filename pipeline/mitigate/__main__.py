"""`python -m pipeline.mitigate`."""

from pipeline.run import main

if __name__ == "__main__":
    main("mitigate")
