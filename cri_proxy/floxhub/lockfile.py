"""manifest.lock: the JSON that Flox pushes, made into `model.lockfiles` values.

A lockfile is the manifest (merged with all that it includes) and the packages, each locked once per
system. The kinds of packages differ by their keys: a store path has `store_path`, a flake its
kebab-case `locked-url`, and a package from a catalog has `attr_path`. Sources of the format: Flox's
lockfile-v1 schema and the lockfiles in tests/data/lockfiles.

Keys that are not needed are not looked at, so lockfiles of later Flox versions parse; those that
are needed must have their type, or the refusal names the place. `outputs` decides which packages
suit a node and what of them is linked, `variables` the order of variables.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Final

from cri_proxy import errors
from cri_proxy.floxhub import fields
from cri_proxy.model import lockfiles, storepaths

SIZE_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of a lockfile beyond which it is refused unread; real ones have some ten thousand."""

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PRIORITY_LIMIT: Final = 1_000_000


def parse(data: bytes, document: str) -> lockfiles.Lockfile:
    """Return the lockfile in `data`; `document` is its name in errors.

    Raises ContentDamaged for what does not follow the format, and EnvironmentUnsuitable for a
    lockfile or manifest of a format that came after this program.
    """
    if len(data) > SIZE_LIMIT:
        raise errors.ContentDamaged(
            f"{document} has {len(data)} bytes, more than the {SIZE_LIMIT} that cri-proxy reads"
        )
    root = fields.parse(data, document)
    version = root.require("lockfile-version")
    if version.integer() != 1:
        raise _unknown_format(version)
    manifest = _manifest(root.require("manifest"))
    descriptors = {each.install_id: each for each in manifest.install}
    packages = tuple(_package(each, descriptors) for each in root.require("packages").items())
    return lockfiles.Lockfile(manifest, packages)


def _manifest(root: fields.Field) -> lockfiles.Manifest:
    options, hook = root.get("options"), root.get("hook")
    return lockfiles.Manifest(
        links_all=_links_all(root),
        install=tuple(_descriptor(*each) for each in _members(root.get("install"))),
        variables=tuple(_variable(*each) for each in _members(root.get("vars"))),
        on_activate=_script(hook and hook.get("on-activate")),
        has_profile=any(_script(script) for _, script in _members(root.get("profile"))),
        services=tuple(name for name, _ in _members(root.get("services")) if name != "auto-start"),
        systems=_texts(options and options.get("systems")),
    )


def _links_all(root: fields.Field) -> bool:
    """Return whether a manifest links all outputs, which depends on its version."""
    schema = root.get("schema-version")
    if schema is not None:
        if not schema.text().startswith("1."):
            raise _unknown_format(schema)
        return False
    version = root.require("version")
    if version.integer() != 1:
        raise _unknown_format(version)
    return True


def _descriptor(install_id: str, root: fields.Field) -> lockfiles.Descriptor:
    outputs = root.get("outputs")
    if outputs is not None and outputs.value != "all" and not isinstance(outputs.value, list):
        raise outputs.wrong('"all" or an array of output names')
    takes_all = outputs is not None and outputs.value == "all"
    return lockfiles.Descriptor(
        install_id=install_id,
        package=_text(root.get("pkg-path")),
        outputs=None if takes_all else _unique(outputs),
        takes_all_outputs=takes_all,
        systems=_texts(root.get("systems")),
    )


def _package(root: fields.Field, descriptors: dict[str, lockfiles.Descriptor]) -> lockfiles.Package:
    install_id = root.require("install_id").text()
    kind = _kind(root)
    to_install: tuple[str, ...] | None
    if kind is lockfiles.PackageKind.STORE_PATH:
        path = _store_path(root.require("store_path"))
        name, outputs, to_install = path.name, {"out": path}, ("out",)
    else:
        name = root.require("name").text()
        outputs = {key: _store_path(each) for key, each in root.require("outputs").members()}
        to_install = _unique(root.get("outputs_to_install") or root.get("outputs-to-install"))
    descriptor = descriptors.get(install_id)
    unfree = root.get("unfree")
    pkg_path = (descriptor and descriptor.package) or ""
    return lockfiles.Package(
        install_id=install_id,
        name=name,
        kind=kind,
        system=root.require("system").text(),
        outputs=MappingProxyType(outputs),
        outputs_to_install=to_install,
        priority=_priority(root.get("priority")),
        is_unfree=unfree is not None and unfree.boolean(),
        # Attribute paths of the base catalog are joined by dots; "owner/package" is another's.
        is_custom_catalog=kind is lockfiles.PackageKind.CATALOG and "/" in pkg_path,
    )


def _kind(root: fields.Field) -> lockfiles.PackageKind:
    for key, kind in (
        ("store_path", lockfiles.PackageKind.STORE_PATH),
        ("locked-url", lockfiles.PackageKind.FLAKE),
        ("attr_path", lockfiles.PackageKind.CATALOG),
    ):
        if root.has(key):
            return kind
    raise root.wrong("a package from a catalog, a flake or a store path")


def _variable(name: str, value: fields.Field) -> tuple[str, str]:
    if not _VARIABLE.fullmatch(name):
        raise errors.EnvironmentUnsuitable(
            f"{value.document}: {fields.shown(name)} in [vars] cannot be the name of a variable, "
            f"which has letters, digits and underscores only: rename it in the manifest"
        )
    return name, value.text()


def _store_path(field: fields.Field) -> storepaths.StorePath:
    try:
        return storepaths.parse(field.text())
    except errors.RequestInvalid as error:
        raise field.wrong("a store path such as /nix/store/<digest>-<name>") from error


def _priority(field: fields.Field | None) -> int:
    if field is None:
        return lockfiles.DEFAULT_PRIORITY
    if abs(field.integer()) > _PRIORITY_LIMIT:
        raise field.wrong(f"a priority of at most {_PRIORITY_LIMIT}")
    return field.integer()


def _unknown_format(field: fields.Field) -> errors.EnvironmentUnsuitable:
    return errors.EnvironmentUnsuitable(
        f"{field.document}: {field.place} is {fields.shown(str(field.value))}, a format that this "
        "cri-proxy does not know: lock the environment with an earlier Flox, or install a newer "
        "cri-proxy"
    )


def _script(field: fields.Field | None) -> str | None:
    """Return a script, None when it is empty."""
    text = _text(field)
    return text if text and not text.isspace() else None


def _members(field: fields.Field | None) -> tuple[tuple[str, fields.Field], ...]:
    return () if field is None else tuple(field.members())


def _text(field: fields.Field | None) -> str | None:
    return None if field is None else field.text()


def _texts(field: fields.Field | None) -> tuple[str, ...] | None:
    return None if field is None else field.texts()


def _unique(field: fields.Field | None) -> tuple[str, ...] | None:
    return None if field is None else tuple(dict.fromkeys(field.texts()))
