"""What every page is made with: one style, pictures inside, no request to anywhere."""

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from PIL import Image

from tlflax.report import style


def data_uri(content: bytes, kind: str) -> str:
    """Packs a picture into an address that needs no request."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def figure(draw: Callable[..., None], *arguments: Any, **options: Any) -> dict[str, Any]:
    """Draws for light and dark pages; the size is in CSS pixels."""
    found: dict[str, Any] = {}
    for name, dark in (("light", False), ("dark", True)):
        stream = io.BytesIO()
        draw(*arguments, stream, dark=dark, **options)
        found[name] = data_uri(stream.getvalue(), "png")
        with Image.open(stream) as image:
            found["width"], found["height"] = image.width // 2, image.height // 2
    return found


def render(template: str, view: Mapping[str, Any]) -> str:
    """Fills a template of this folder.

    Args:
      template: file name.
      view: its variables.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tlflax", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        percent=style.percent,
        certainty=style.certainty,
        interval=style.interval,
        points=style.points,
        points_of=style.points_of,
        p_value=style.small_p,
        thousands=style.count,
        number=style.number,
        duration=style.duration,
        day=style.day,
        shorten=style.shorten,
    )
    environment.tests["finite"] = style.finite
    return environment.get_template(template).render(view)
