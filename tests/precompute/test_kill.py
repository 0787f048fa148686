"""SIGKILL in the middle: what is on the disk is whole, and the next start ends with the same data."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from pipeline.precompute import stage
from pipeline.precompute.chunks import ChunkFolder
from pipeline.workspace.features import FEATURES

PROJECT = Path(__file__).parents[2]
SETTINGS = {"chunk_rows": 2, "workers": 1, "layers": ["network.relu*"]}
CODE = """
import sys
sys.path.insert(0, "tests")
import tiny, torch
from pipeline.precompute import stage
torch.set_num_threads(1)
from pathlib import Path
stage.run(tiny.make_context(Path(sys.argv[1]), tiny.make_dataset(), precompute={settings}))
"""


def test_a_killed_process_loses_at_most_the_chunk_at_hand(tiny_context, monkeypatch):
    context = tiny_context(precompute=SETTINGS)
    folder = context.directory.folder("precompute")
    context.directory.clear("precompute")
    code = CODE.format(settings=SETTINGS)
    process = subprocess.Popen([sys.executable, "-c", code, str(context.directory.root)], cwd=PROJECT)
    try:
        until = time.monotonic() + 60
        while len(list(folder.glob("chunks/[0-9]*.npz"))) < 5:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    there = len(list(folder.glob("chunks/[0-9]*.npz")))
    assert 5 <= there < 90 and not (context.directory.root / FEATURES).exists()

    written, write = [], ChunkFolder.write
    monkeypatch.setattr(ChunkFolder, "write", lambda *arguments: (written.append(arguments[1]), write(*arguments)))
    stage.run(context)
    assert written == list(range(there, 90)), "every chunk that was there is whole"
    resumed = (context.directory.root / FEATURES).read_bytes()
    context.directory.clear("precompute")
    stage.run(context)
    assert resumed == (context.directory.root / FEATURES).read_bytes()
