"""Read what an offline W&B run has written; W&B 0.31 has no reader of its own any more."""

import json
import struct
import time


def read_back(folder):
    """History rows, configuration, run and files of an offline run that has ended.

    W&B's own process writes the file, and may not have written its end when `finish` returns.
    """
    for _ in range(10_000):
        found = _read(folder)
        if found["ended"]:
            return found
        time.sleep(0.05)
    raise AssertionError(f"W&B has not ended its file in {folder}")


def _read(folder):
    """What the file holds.

    The file is LevelDB's log format: after a 7-byte head, blocks of 32 KiB with records of 7 bytes head
    (checksum, length, type) and a piece of a protobuf message. Written for wandb 0.31.
    """
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("run-*.wandb")
    data, position, message = path.read_bytes(), 7, b""
    found = {"history": [], "config": {}, "run": None, "files": [], "ended": False}

    def values(items):
        tree = {}
        for item in items:
            *folders, last = list(item.nested_key) or [item.key]
            place = tree
            for name in folders:
                place = place.setdefault(name, {})
            place[last] = json.loads(item.value_json)
        return tree

    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        message = (b"" if kind in (1, 2) else message) + data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind not in (1, 4):
            continue
        record = wandb_internal_pb2.Record()
        record.ParseFromString(message)
        what = record.WhichOneof("record_type")
        if what == "run":
            found["run"] = record.run
            found["config"].update(values(record.run.config.update))
        elif what == "history":
            found["history"].append(values(record.history.item))
        elif what in ("exit", "footer"):
            found["ended"] = True
        elif what == "files":
            found["files"] += [file.path for file in record.files.files]
    return found
