"""What every page is made with: one style, pictures inside, no request to anywhere."""

import base64
import functools
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
    return pack(*drawn(draw, *arguments, **options))


def drawn(draw: Callable[..., None], *arguments: Any, **options: Any) -> tuple[bytes, bytes]:
    """Draws for light and dark pages; two PNG files."""
    streams = io.BytesIO(), io.BytesIO()
    for stream, dark in zip(streams, (False, True), strict=True):
        draw(*arguments, stream, dark=dark, **options)
    return streams[0].getvalue(), streams[1].getvalue()


def pack(light: bytes, dark: bytes) -> dict[str, Any]:
    """What the template's ``picture`` shows of two PNG files."""
    with Image.open(io.BytesIO(light)) as image:
        width, height = image.width // 2, image.height // 2
    return {
        "light": data_uri(light, "png"),
        "dark": data_uri(dark, "png"),
        "width": width,
        "height": height,
    }


def render(template: str, view: Mapping[str, Any]) -> str:
    """Fills a template of this folder.

    Args:
      template: file name.
      view: its variables.
    """
    return _environment().get_template(template).render(view)


# A second of compiling for a report's templates: once, also for a study of many runs.
@functools.cache
def _environment() -> jinja2.Environment:
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
    return environment
