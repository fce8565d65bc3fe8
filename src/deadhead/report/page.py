"""Pages that need nothing else: one template for the frame and the styles, figures inside."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from typing import Any


def render_page(template: str, figures: Mapping[str, str], **values: Any) -> str:
    """Fill in a template of this package.

    Args:
        template: its name.
        figures: SVG source by name; matplotlib has escaped the text in it.
        **values: what the template shows; it is escaped.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    folder = resources.files("deadhead.report")
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    inside = {name: Markup(_inline(svg, name)) for name, svg in figures.items()}
    return environment.get_template(template).render(figures=inside, **values)


def _inline(svg: str, name: str) -> str:
    """Fit an SVG file into HTML: no prolog, comments or namespaces, and ids of its own."""
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href=", "href=")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1)
