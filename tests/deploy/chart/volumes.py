"""Emulates the volumes of a kubelet: folders of claims, and files of Secrets and ConfigMaps, which
can be refreshed."""

import base64
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Mounted:
    """A mounted volume of files."""

    at: Path
    volume: dict
    group: int
    version: int = 0


class Volumes:
    """All claims by name, and the files of all pods."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.objects: dict[tuple[str, str], dict] = {}
        self.mounted: list[Mounted] = []

    def claim(self, name: str) -> Path:
        return self.folder / "claims" / name

    def mounts(self, pod: str, spec: dict, home: Path) -> Iterator[str]:
        """A line for each mount of the pod's container: source, destination, and rw or ro."""
        [container] = spec["containers"]
        volumes = {volume["name"]: volume for volume in spec.get("volumes") or []}
        group = spec["securityContext"]["fsGroup"]
        for mount in container.get("volumeMounts") or []:
            # A mount that is not in `volumes` is a claim of a StatefulSet's template.
            claimed = {"persistentVolumeClaim": {"claimName": f"{mount['name']}-{pod}"}}
            volume = volumes.get(mount["name"], claimed)
            if "persistentVolumeClaim" in volume:
                at = self.claim(volume["persistentVolumeClaim"]["claimName"])
                at.mkdir(parents=True, exist_ok=True)
                os.chown(at, 0, group)
                at.chmod(0o2775)
            else:
                at = home / volume["name"]
                at.mkdir(parents=True)
                self.mounted.append(Mounted(at, volume, group))
                self.write(self.mounted[-1])
            yield f"{at} {mount['mountPath']} {'ro' if mount.get('readOnly') else 'rw'}\n"

    def refresh(self) -> None:
        """Writes all files again, from the current objects."""
        for mounted in self.mounted:
            self.write(mounted)

    def write(self, mounted: Mounted) -> None:
        """Each file is a link through one link to a folder. That link is replaced, so all files
        change at once."""
        mounted.version += 1
        folder = mounted.at / f"..{mounted.version}"
        folder.mkdir()
        for path, content, mode in self.files(mounted.volume):
            (folder / path).write_bytes(content)
            os.chown(folder / path, 0, mounted.group)
            (folder / path).chmod(mode)
            if mounted.version == 1:
                (mounted.at / path).symlink_to(f"..data/{path}")
        (mounted.at / "..next").symlink_to(folder.name)
        os.replace(mounted.at / "..next", mounted.at / "..data")

    def files(self, volume: dict) -> Iterator[tuple[str, bytes, int]]:
        """Path, content and mode of the files that a Secret, a ConfigMap or several Secrets provide
        in a volume."""
        projected = volume.get("projected", {})
        sources = [
            ("Secret", source["secret"], projected["defaultMode"])
            for source in projected.get("sources", [])
        ]
        for kind, key in (("ConfigMap", "configMap"), ("Secret", "secret")):
            if key in volume:
                sources.append((kind, volume[key], volume[key].get("defaultMode", 0o644)))
        for kind, source, mode in sources:
            data = self.data(kind, source.get("name") or source["secretName"])
            for item in source.get("items") or [{"key": key, "path": key} for key in data]:
                yield item["path"], data[item["key"]], mode

    def data(self, kind: str, name: str) -> dict[str, bytes]:
        found = self.objects[kind, name]
        if kind == "ConfigMap":
            return {key: text.encode() for key, text in found["data"].items()}
        data = {key: base64.b64decode(value) for key, value in found.get("data", {}).items()}
        return data | {key: text.encode() for key, text in found.get("stringData", {}).items()}
