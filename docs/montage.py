"""Put pictures side by side, for the documentation.

sgenet detect predict runs/x --output found
python docs/montage.py docs/images/detections.webp found/*.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

COLUMNS, GAP = 4, 12


def main() -> int:
    """Write the first file from the others, which are of one size."""
    if len(sys.argv) < 3:
        print("montage: name the picture to write, and those to put into it", file=sys.stderr)
        return 2
    target, *files = map(Path, sys.argv[1:])
    pictures = [Image.open(file).convert("RGB") for file in files]
    width, height = pictures[0].size
    rows = -(-len(pictures) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for number, picture in enumerate(pictures):
        row, column = divmod(number, COLUMNS)
        sheet.paste(picture, (column * (width + GAP), row * (height + GAP)))
    sheet.save(target, quality=90, method=6)
    return 0


if __name__ == "__main__":
    sys.exit(main())
