"""The text of a study: the file in its parts, and `--set` overrides as layers."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeper.study.foreign import foreign_fault
from sweeper.study.nodes import MAX_CHARACTERS, LineColumn, YamlNode, dotted, parse
from sweeper.study.sizes import value_text
from sweeper.values.errors import Fault, StudyFaults

SET = "--set"
"""Stands for the file in the faults of overrides."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_MAX_BYTES = 4 * MAX_CHARACTERS
_START: LineColumn = (1, 1)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The study without its profiles, and these. `faulty` are paths whose form is wrong, in any part."""

    study: YamlNode
    profiles: dict[str, YamlNode]
    faults: tuple[Fault, ...]
    faulty: frozenset[str]


def read_parts(path: Path) -> Parts:
    """The file taken apart. Raises StudyFaults where there is nothing to take apart."""
    root, faults = parse(_text(path), file=str(path))
    if root is None or not isinstance(root.value, dict):
        if root is not None:
            message = "a study is a mapping; write key: value, as in name: depth-vs-ffn"
            faults.append(root.fault(message))
        elif not faults:
            faults.append(_fault(path, _START, "the file is empty; start with name: depth-vs-ffn"))
        raise StudyFaults(faults)
    if other := foreign_fault(root):
        raise StudyFaults([other])
    faulty = frozenset(re.sub(r"^profiles\.[^.]*\.|\[.*", "", fault.path) for fault in faults)
    items = dict(root.value)
    profiles = items.pop("profiles", None)
    named, profile_faults = _profiles(profiles)
    return Parts(
        study=root.with_items(items),
        profiles=named,
        faults=(*faults, *profile_faults),
        faulty=faulty,
    )


def _profiles(node: YamlNode | None) -> tuple[dict[str, YamlNode], list[Fault]]:
    if node is None or node.value is None:
        return {}, []
    if not isinstance(node.value, dict):
        return {}, [node.fault("profiles are a mapping; write profiles: {cpu: {…}}")]
    profiles: dict[str, YamlNode] = {}
    faults = []
    for name, profile in node.value.items():
        if name == "full":
            faults.append(profile.key_fault("full is the study itself; give the profile another name"))
        elif not _NAME.fullmatch(name):
            right = "use letters, digits, - and _ (at most 100)"
            faults.append(profile.key_fault(f"{value_text(name)} can't name a profile; {right}"))
        elif not isinstance(profile.value, dict):
            faults.append(profile.fault("a profile is a mapping of what differs; write {} for nothing"))
        else:
            profiles[name] = profile
    return profiles, faults


def _fault(path: Path, place: LineColumn, message: str) -> Fault:
    return Fault(file=str(path), line=place[0], column=place[1], path="", message=message)


def _text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise StudyFaults([_fault(path, _START, f"no such file{_neighbour(path)}")]) from None
    except IsADirectoryError:
        message = f"a folder, not a study; name a file in it{_neighbour(path / 'study.yaml')}"
        raise StudyFaults([_fault(path, _START, message)]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"can't be read ({reason}); name a YAML file that can"
        raise StudyFaults([_fault(path, _START, message)]) from None
    if len(content) > _MAX_BYTES:
        message = f"more than {MAX_CHARACTERS} characters; a study is short"
        raise StudyFaults([_fault(path, _START, message)])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "replace")
        place = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        message = f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise StudyFaults([_fault(path, place, message)]) from None


def _neighbour(path: Path) -> str:
    try:
        names = sorted(child.name for child in path.parent.iterdir() if child.suffix in (".yaml", ".yml"))
    except (OSError, ValueError):
        return ""
    near = difflib.get_close_matches(path.name[:80], names, n=1, cutoff=0.6) or names[:1]
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def read_overrides(overrides: Sequence[str]) -> tuple[list[YamlNode], set[Fault]]:
    """Each `key=value` as a layer, so that a later one replaces an earlier one of its group; their faults."""
    layers: list[YamlNode] = []
    faults: set[Fault] = set()
    for override in overrides:
        key, equals, text = override.partition("=")
        keys = _keys(key.strip())
        if not equals or not all(keys):
            faults.add(_set_fault("", f"{value_text(override)} sets nothing; write key=value, trial.tokens=1M"))
        elif keys[0] == "profiles":
            faults.add(_set_fault(key, "profiles can't be set; choose one with --profile"))
        else:
            path = ".".join(keys)
            value, form_faults = parse(text, file=SET, path=path, at=_START)
            faults.update(form_faults)
            if not form_faults:
                null = YamlNode(file=SET, path=path, at=_START, key_at=_START, value=None)
                layers.append(_nested(keys, value or null))
    return layers, faults


def _keys(key: str) -> list[str]:
    """`trial.tokens` in its parts; an axis of an optimizer's field is one key, `axes` → `optimizer.lr`."""
    keys = key.split(".")
    if keys[:2] == ["axes", "optimizer"] and len(keys) > 2:
        return ["axes", ".".join(keys[1:3]), *keys[3:]]
    return keys


def _nested(keys: list[str], value: YamlNode) -> YamlNode:
    node = value
    for depth in range(len(keys) - 1, -1, -1):
        path = ".".join(keys[:depth])
        node = YamlNode(file=SET, path=path, at=_START, key_at=_START, value={keys[depth]: node})
    return node


def _set_fault(path: str, message: str) -> Fault:
    return Fault(file=SET, line=1, column=1, path=dotted("", path), message=message)
