"""Models in SB3's format that run code when they are loaded."""

from __future__ import annotations

import base64
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def write_hostile_model(model: Any, path: Path, ran: Path) -> None:
    """Saves a model so that loading it makes the file ``ran``."""
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(members["data"])
    pickled = base64.b64encode(pickle.dumps(Payload(ran))).decode()
    data["_last_obs"] = {":type:": "<class 'numpy.ndarray'>", ":serialized:": pickled}
    members["data"] = json.dumps(data).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
