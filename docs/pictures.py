"""Take the README's pictures out of the demonstration's report.

    python docs/pictures.py runs/demo/report.html

Needs Chromium and the test requirements (`make pictures` runs it). Each picture is one section of the report, as a
browser shows it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

SECTIONS = {"seeds": "Every seed", "masks": "Where SGE looks", "shapes": "The data"}
WIDTH = 1000  # pixels; the page's column and its margins


def main() -> int:
    """Write docs/images/NAME.png for every section."""
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
            section.locator("figure, ul.samples").first.screenshot(path=images / f"{name}.png")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
