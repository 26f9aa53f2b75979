"""A page in headless Chromium: what it shows, what it complains about, what it asks for."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTHS = (390, 1000)

# Pages allow no script, so another page looks at them from outside.
_OUTSIDE = """<!doctype html><meta charset="utf-8"><title>outside</title>
<body style="margin:0">%s<script>
const boxes = ["auto", "scroll", "hidden"];
const scrolls = ["auto", "scroll"];
addEventListener("load", () => {
  const seen = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    // What is folded is looked at as well.
    page.querySelectorAll("details").forEach(e => e.open = true);
    const style = e => frame.contentWindow.getComputedStyle(e);
    const over = [...page.querySelectorAll("body *")].filter(e => {
      if (e.getBoundingClientRect().right <= root.clientWidth + 0.5) return false;
      for (let p = e; p; p = p.parentElement)
        if (boxes.includes(style(p).overflowX)) return false;
      return true;
    });
    // Some browsers let the keyboard scroll such boxes by themselves; tabIndex tells for all.
    const stuck = [...page.querySelectorAll("body *")].filter(e => e.tabIndex < 0 && (
      e.scrollWidth > e.clientWidth && scrolls.includes(style(e).overflowX) ||
      e.scrollHeight > e.clientHeight && scrolls.includes(style(e).overflowY)));
    return {
      width: root.clientWidth,
      content: root.scrollWidth,
      over: over.map(e => e.outerHTML.slice(0, 80)),
      stuck: stuck.map(e => e.outerHTML.slice(0, 80)),
      values: [...page.querySelectorAll("[data-key]")].map(e => [e.dataset.key, e.textContent]),
      broken: [...page.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt),
      asked: frame.contentWindow.performance.getEntriesByType("resource")
        .map(r => r.name).filter(n => !n.startsWith("data:")),
      dangling: [...page.querySelectorAll("a[href^='#']")].map(a => a.getAttribute("href").slice(1))
        .filter(id => !page.getElementById(id)),
    };
  });
  const out = document.createElement("pre");
  out.id = "seen";
  out.textContent = JSON.stringify(seen);
  document.body.replaceChildren(out);
});
</script>"""


@dataclass
class Seen:
    """What became of a page.

    Attributes:
      views: one dict for each of WIDTHS.
      console: lines that the browser logged for it.
      requests: addresses that it asked for, apart from files and data.
    """

    views: list[dict]
    console: list[str]
    requests: list[str]


def chromium() -> str:
    """The browser; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(
            f"no browser: install one of {', '.join(NAMES)} (Debian: apt-get install chromium)"
        )
    return found


class _Found(HTMLParser):
    def __init__(self):
        super().__init__()
        self.inside, self.text = False, ""

    def handle_starttag(self, tag, attrs):
        self.inside = ("id", "seen") in attrs

    def handle_data(self, data):
        self.text += data if self.inside else ""


def look(page: Path, folder: Path) -> Seen:
    """Opens a page at each of WIDTHS.

    Args:
      page: the HTML file.
      folder: an empty folder for the browser.
    """
    browser = chromium()
    address = html.escape(page.resolve().as_uri())
    frames = "".join(
        f'<iframe src="{address}" style="width:{w}px;height:900px;border:0;display:block"></iframe>'
        for w in WIDTHS
    )
    outside, net = folder / "outside.html", folder / "net.json"
    outside.write_text(_OUTSIDE % frames, encoding="utf-8")
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage",
            f"--user-data-dir={folder / 'profile'}", f"--log-net-log={net}",
            "--allow-file-access-from-files", "--enable-logging=stderr", "--v=0",
            # The browser's own errands (time, updates) stay at home.
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--hide-scrollbars", "--window-size=1200,2000", "--dump-dom", outside.as_uri(),
        ],
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    found = _Found()
    found.feed(done.stdout)
    assert found.text, f"the browser showed nothing: {done.stderr[-2000:]}"
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    events = json.loads(net.read_text(encoding="utf-8"))["events"]
    # Its own have no page as their initiator.
    asked = [e["params"] for e in events if "initiator" in e.get("params", {})]
    pages = {p["url"] for p in asked if p["initiator"] != "not an origin"}
    requests = sorted(u for u in pages if not re.match(r"(file|data):", u))
    return Seen(json.loads(found.text), console, requests)


def complaints(seen: Seen) -> list[str]:
    """What is wrong with a page, one line each."""
    found = [*seen.console, *(f"asked for {url}" for url in seen.requests)]
    for view in seen.views:
        width = view["width"]
        if view["content"] > width:
            found.append(f"{view['content']} pixels wide at {width}: {view['over'][:3]}")
        found += [f"scrolls at {width}, but not by keyboard: {tag}" for tag in view["stuck"]]
        found += [f"picture not shown: {alt}" for alt in view["broken"]]
        found += [f"asked for {url}" for url in view["asked"]]
        found += [f"link to nowhere: #{name}" for name in view["dangling"]]
    return found


def at(content, key: str):
    """The value at ``a.b.0.c`` of nested dicts and lists; names may contain dots."""
    if not key:
        return content
    parts = key.split(".")
    for n in range(len(parts), 0, -1):
        name, rest = ".".join(parts[:n]), ".".join(parts[n:])
        if isinstance(content, list) and name.isdecimal() and int(name) < len(content):
            return at(content[int(name)], rest)
        if isinstance(content, dict) and name in content:
            try:
                return at(content[name], rest)
            except KeyError:
                continue
    raise KeyError(key)


_UNITS = {"s": 1, "min": 60, "h": 3600, "Byte": 1, "Bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}


def quantity(text: str) -> tuple[float, float] | None:
    """What ``3 min 20 s`` or ``1.2 MB`` says and half of its last digit; None for other texts."""
    parts = re.findall(r"([\d.]+) (\w+)", text)
    if not parts or " ".join(map(" ".join, parts)) != text or {u for _, u in parts} - _UNITS.keys():
        return None
    digits = parts[-1][0].partition(".")[2]
    half = 0.5 * _UNITS[parts[-1][1]] * 10.0 ** -len(digits)
    return sum(float(number) * _UNITS[unit] for number, unit in parts), half


def differs(text: str, value) -> str:
    """Why a text does not show a value (a number, an interval, nothing), or an empty string."""
    dash = "\N{EN DASH}"
    wanted = value if isinstance(value, list) else [value]
    if text == dash:
        return "" if wanted == [None] else f"shows nothing for {value}"
    if found := quantity(text):
        close = value is not None and abs(found[0] - value) <= found[1] * (1 + 1e-6)
        return "" if close else f"shows {text} for {value}"
    unit = 0.01 if text.endswith("%") else 1.0
    shown = text.removesuffix("%").replace(",", "").split(dash)
    if len(shown) != len(wanted):
        return f"shows {text} for {value}"
    for one, number in zip(shown, wanted, strict=True):
        digits = one.partition("e")[0].partition(".")[2]
        power = int(one.partition("e")[2] or 0)
        half = 0.5 * unit * 10.0 ** (power - len(digits))
        if number is None or abs(float(one) * unit - number) > half * (1 + 1e-6):
            return f"shows {text} for {value}"
    return ""


def wrong_values(seen: Seen, content) -> list[str]:
    """Numbers on the page that are not those of the JSON beside it."""
    return [
        f"{key}: {why}"
        for view in seen.views
        for key, text in view["values"]
        if (why := differs(text, at(content, key)))
    ]
