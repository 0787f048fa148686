from __future__ import annotations

import os

import torch
from hypothesis import settings

# Two threads: more would only make small tensors wait for one another, and results do not depend on the machine.
torch.set_num_threads(2)
settings.register_profile("house", deadline=None, max_examples=30, derandomize=bool(os.environ.get("CI")))
settings.load_profile("house")
