"""Take the README's pictures out of the demonstration's report.

    python docs/pictures.py runs/demo/report.html

Needs Chromium and the test requirements (`make pictures` runs it). Each picture is one section of the report, as a
browser shows it.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

SECTIONS = {"seeds": "Every seed", "masks": "Where SGE looks", "shapes": "The data"}
WIDTH = 1000  # pixels; the page's column and its margins
MARGIN = 16


def main() -> int:
    """Write docs/images/NAME.webp for every section."""
    report = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo/report.html").resolve()
    chromium = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
    if not report.is_file() or chromium is None:
        print(f"pictures: {report} and a Chromium are needed; run `make demo` first", file=sys.stderr)
        return 2
    images = Path(__file__).parent / "images"
    images.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 800}, device_scale_factor=1.5, color_scheme="light")
        page.goto(report.as_uri())
        for name, title in SECTIONS.items():
            section = page.locator("section", has=page.get_by_role("heading", name=title, exact=True))
            box = section.locator("figure, ul.samples").first.bounding_box()
            if box is None:
                print(f"pictures: the report shows no section '{title}'", file=sys.stderr)
                return 2
            clip = {
                "x": box["x"] - MARGIN,
                "y": box["y"] - MARGIN,
                "width": box["width"] + 2 * MARGIN,
                "height": box["height"] + 2 * MARGIN,
            }
            write(page.screenshot(full_page=True, clip=clip), images / f"{name}.webp")
        browser.close()
    return 0


def write(picture: bytes, file: Path) -> None:
    """A WebP of a fifth of the PNG's size: every clone carries it."""
    Image.open(io.BytesIO(picture)).convert("RGB").save(file, quality=90, method=6)


if __name__ == "__main__":
    sys.exit(main())
