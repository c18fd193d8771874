"""A template becomes a page: one HTML file that loads nothing and runs only its own script."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .run_values import clean
from .style import PALETTE
from .tables import interval_text, kind_of, value_text


def render(template: str, *, title: str, provenance: Mapping[str, Any], **values: Any) -> str:
    """The page that `template`, a file of templates/, makes of `values`; every text is escaped.

    The page's policy forbids loading anything and running anything but our script, whatever the values contain.
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
        provenance=[(clean(key), _joined(value)) for key, value in provenance.items() if value is not None],
        value_text=value_text,
        interval_text=interval_text,
        kind_of=kind_of,
        **values,
    )


def _joined(value: Any) -> str:
    """A value of the provenance as text; of a long list, its first and last value and the number of values."""
    values = value if isinstance(value, list) else [value]
    texts = [clean(item if isinstance(item, str) else json.dumps(item)) for item in values]
    return ", ".join(texts) if len(texts) <= 5 else f"{texts[0]} to {texts[-1]} ({len(texts)} values)"
