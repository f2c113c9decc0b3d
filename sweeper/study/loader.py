"""A YAML file, a profile and `--set` overrides → a `LoadedStudy`, or all that is wrong with them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from sweeper.study.axes import expand
from sweeper.study.build import build
from sweeper.study.checks import check, data_location
from sweeper.study.context import Context
from sweeper.study.json_schema import schema_json
from sweeper.study.keys import known_keys, near
from sweeper.study.layers import conflicts, merged, without_nulls
from sweeper.study.nodes import YamlNode
from sweeper.study.schema import EMBEDDED_DATA, LoadedStudy
from sweeper.study.sizes import value_text
from sweeper.study.source import SET, Parts, read_overrides, read_parts
from sweeper.study.validation import read_document, values_of
from sweeper.values.errors import Fault, StudyFaults, UsageError
from sweeper.values.paths import profile_of
from sweeper.values.run_folder import RunFolder

__all__ = ["FULL_PROFILE", "choose_profile", "load", "schema_json"]

FULL_PROFILE = "full"
"""The profile that is the study itself."""


def load(
    path: Path,
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    has_gpu: bool = False,
    data_must_exist: bool = True,
    data_fault: Callable[[str], str] = lambda path: "",
) -> LoadedStudy:
    """Load the study at `path` under a profile, with `key=value` overrides merged last.

    `data_must_exist` False takes a study whose data isn't on this machine, as that of a copied run folder. Where it is,
    `data_fault` says what is wrong with the data at a path, "" where nothing is.

    Raises StudyFaults with all faults of the file, of every profile and of the overrides; UsageError for
    a profile that the study doesn't have.
    """
    parts = read_parts(path)
    place = _Place(folder=path.parent, data_must_exist=data_must_exist, data_fault=cache(data_fault))
    full = _layered([parts.study], below=None, faulty=parts.faulty, place=place)
    profiles = {name: full.under([layer]) for name, layer in parts.profiles.items()}
    faults = {*parts.faults, *full.faults}
    for name, merged_profile in profiles.items():
        new = merged_profile.faults - full.faults
        faults |= _said_under(new, own=f"profiles.{name}", under=f"under profile {name}")
    chosen = _chosen(parts, profile, has_gpu=has_gpu, faulty=bool(faults))
    result = full if chosen == FULL_PROFILE else profiles[chosen]
    layers, form_faults = read_overrides(overrides)
    above = result.under(layers)
    faults |= form_faults | _said_under(above.faults - result.faults, own="", under="with --set")
    if faults:
        raise StudyFaults(sorted(faults))
    return above.loaded(file=path, profile=chosen)


def choose_profile(names: Iterable[str], profile: str | None, *, has_gpu: bool) -> str:
    """`profile` if the study has it, else `cpu` where there is no GPU and such a profile, else `full`.

    Raises UsageError, listing the profiles, for one that the study doesn't have.
    """
    known = (FULL_PROFILE, *names)
    if profile is None:
        return "cpu" if not has_gpu and "cpu" in known else FULL_PROFILE
    if profile not in known:
        meant = near(profile, known)
        hint = f"; did you mean {meant}?" if meant else ""
        raise UsageError(f"the study has no profile {value_text(profile)}; it has {', '.join(known)}{hint}")
    return profile


def _chosen(parts: Parts, profile: str | None, *, has_gpu: bool, faulty: bool) -> str:
    """The profile to use; the study's own faults come before that of a profile that it lacks."""
    try:
        return choose_profile(parts.profiles, profile, has_gpu=has_gpu)
    except UsageError:
        if faulty:
            return FULL_PROFILE
        raise


def _said_under(faults: Iterable[Fault], *, own: str, under: str) -> set[Fault]:
    """Faults of what lies outside the layer at `own` say under which layer they arise."""
    return {
        fault
        if fault.file == SET or (own and f"{fault.path}.".startswith(f"{own}."))
        else replace(fault, message=f"{fault.message} ({under})")
        for fault in faults
    }


@dataclass(frozen=True, kw_only=True)
class _Place:
    """What a study's data is looked for from, and whether it has to be there."""

    folder: Path
    data_must_exist: bool
    data_fault: Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class _Layered:
    """Layers of a study merged and checked; `faulty` are paths known to be wrong before merging."""

    context: Context
    place: _Place
    faulty: frozenset[str]
    faults: frozenset[Fault]

    def under(self, layers: Sequence[YamlNode]) -> _Layered:
        """With more layers on top, the last the highest."""
        return _layered(layers, below=self.context.sound.root, faulty=self.faulty, place=self.place)

    def loaded(self, *, file: Path, profile: str) -> LoadedStudy:
        """The study, known to be free of faults."""
        document, resolved = self.context.document, values_of(self.context.sound.root)
        data, data_path = document.trial.data, None
        if data not in EMBEDDED_DATA:
            data_path = data_location(data, self.context.folder)
            data = _data_name(data_path)
            resolved = {**resolved, "trial": {**resolved["trial"], "data": str(data_path)}}
        study = build(document, self.context.axes, data=data)
        return LoadedStudy(study=study, profile=profile, file=file, resolved=resolved, data_path=data_path)


def _layered(layers: Sequence[YamlNode], *, below: YamlNode | None, faulty: frozenset[str], place: _Place) -> _Layered:
    """`layers` over what is `below`, with the faults of each layer and of all as merged."""
    known = [known_keys(layer) for layer in layers]
    above = [keys.layer for keys in known]
    root = below if below is not None else without_nulls(above.pop(0))
    for layer in above:
        root = merged(root, layer)
    faulty = faulty.union(*(keys.meant for keys in known))
    sound, document_faults = read_document(root, faulty)
    axes_node = root.get("axes") or replace(root, value={})
    axes, axis_faults = expand(axes_node)
    unsound = {f"axes.{name}" for name in axes_node.items() if name not in axes}
    sound = replace(sound, faulty=sound.faulty | unsound)
    context = Context(
        sound=sound,
        axes=axes,
        folder=place.folder,
        data_must_exist=place.data_must_exist,
        data_fault=place.data_fault,
    )
    form_faults = [fault for keys in known for fault in (*keys.faults, *conflicts(keys.layer))]
    faults = frozenset((*form_faults, *document_faults, *axis_faults, *check(context)))
    return _Layered(context=context, place=place, faulty=faulty, faults=faults)


def _data_name(path: Path) -> str:
    """What ids know data by: the same on every machine, and never an embedded corpus' name."""
    name = path.name or "data"
    return f"./{name}" if name in EMBEDDED_DATA else name


def load_folder(folder: RunFolder, *, given: Mapping[str, object]) -> LoadedStudy:
    """The study of a run folder, which may have come from a machine with other data.

    UsageError where it isn't a run folder, or `given` has flags that would say otherwise than it does.
    """
    if ignored := [flag for flag, value in given.items() if value]:
        raise UsageError(
            f"{value_text(folder.root)} is a run folder, whose study and profile are settled: "
            f"leave {' and '.join(ignored)} out, or name the study's YAML file"
        )
    if not folder.ledger.exists() or not folder.study.exists():
        raise UsageError(
            f"{folder.root}: no run folder, it lacks study.yaml or ledger.jsonl: "
            "name a study, or runs/<study>/<profile>"
        )
    loaded = load(folder.study, profile="full", data_must_exist=False)
    return loaded.model_copy(update={"profile": profile_of(folder)})
