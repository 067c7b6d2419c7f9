"""What is kept of unfinished work, as tests read and change it."""

import json
from pathlib import Path


def kept_records(path: Path) -> dict[str, dict]:
    """The newest record of each key, from a file of one process; nothing where there is no file."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    records = {}
    for line in lines:
        records |= json.loads(line).get("records", {})
    return records


def change_record(path: Path, key: str, record: dict) -> None:
    """Add a record that stands for the one that is there."""
    serial = max(json.loads(line).get("serial", 0) for line in path.read_text().splitlines()) + 1
    with path.open("a") as stream:
        stream.write(json.dumps({"serial": serial, "records": {key: record}}) + "\n")
