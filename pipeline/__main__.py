"""`python -m pipeline` lists the stages; `python -m pipeline STAGE ...` and `r2r STAGE ...` run one."""

from pipeline.run.cli import console

__all__ = ["console"]

if __name__ == "__main__":
    console(prog="python -m pipeline")
