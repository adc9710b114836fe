"""Put pictures side by side, for the documentation.

sgenet detect predict runs/x --output found
python docs/montage.py docs/images/detections.webp found/*.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

COLUMNS, GAP, SIDE = 4, 12, 320


def main() -> int:
    """Write the first file from the others, which are square."""
    if len(sys.argv) < 3:
        print("montage: name the picture to write, and those to put into it", file=sys.stderr)
        return 2
    target, *files = map(Path, sys.argv[1:])
    pictures = [Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS) for file in files]
    rows = -(-len(pictures) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) - GAP, rows * (SIDE + GAP) - GAP), "white")
    for number, picture in enumerate(pictures):
        row, column = divmod(number, COLUMNS)
        sheet.paste(picture, (column * (SIDE + GAP), row * (SIDE + GAP)))
    sheet.save(target, quality=90, method=6)
    return 0


if __name__ == "__main__":
    sys.exit(main())
