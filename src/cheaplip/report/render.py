"""A template becomes a page: one HTML file that needs nothing else and may run exactly its own script."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..run_folder import write_atomic
from .aggregate import clean
from .style import PALETTE


def render(template: str, *, title: str, provenance: Mapping[str, Any], **values: Any) -> str:
    """The page that `template`, a file of templates/, makes of `values`; every text is escaped.

    Its policy lets it load nothing and run nothing but our script, whatever the values contain.
    """
    loader = PackageLoader("cheaplip.report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    script, css = (Markup(loader.get_source(environment, name)[0]) for name in ("page.js", "page.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.get_template(template).render(
        title=title,
        css=css,
        script=script,
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        palette=PALETTE,
        provenance=[(clean(key), _listed(value)) for key, value in provenance.items() if value is not None],
        **values,
    )


def write_text(path: Path, text: str) -> None:
    """Write a text file, atomically."""
    write_atomic(path, lambda temporary: temporary.write_bytes(text.encode("utf-8")))


def _listed(value: Any) -> str:
    """A value of the provenance in words; a long list by its ends."""
    values = value if isinstance(value, list) else [value]
    shown = [clean(item if isinstance(item, str) else json.dumps(item)) for item in values]
    return ", ".join(shown) if len(shown) <= 5 else f"{shown[0]} to {shown[-1]} ({len(shown)} values)"
