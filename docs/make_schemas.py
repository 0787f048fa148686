"""Write the JSON schemas of the configuration and of the files that other programs may read.

python -m docs.make_schemas
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import TypeAdapter

from pipeline.config import Config
from pipeline.workspace.records import Audit, Biases, Findings, SampleLabel, Verdict

SCHEMAS = {
    "config": Config.model_json_schema(),
    "findings": Findings.model_json_schema(),
    "biases": Biases.model_json_schema(),
    "audit": Audit.model_json_schema(mode="serialization"),
    "annotations": TypeAdapter(list[Verdict | SampleLabel]).json_schema(),
}
FOLDER = Path(__file__).parent / "schemas"


def main() -> None:
    """Write one file per schema."""
    FOLDER.mkdir(exist_ok=True)
    for name, schema in SCHEMAS.items():
        (FOLDER / f"{name}.json").write_text(text(schema), encoding="utf-8")


def text(schema: dict) -> str:
    """Return a schema as it stands in its file."""
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    main()
