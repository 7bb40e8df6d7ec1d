"""Makes docs/pictures/dashboard-*.png of what the browser tests saw.

The tests keep pictures of the pages that they walk through in ``artifacts/browser``; this makes
small ones of some: run ``pytest tests/browser``, then ``python docs/generate_screenshots.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
SEEN = ROOT / "artifacts" / "browser"
#: Name here -> name there, and the most pixels across and down.
PICTURES = {
    "dashboard-overview": ("overview", 1000, 640),
    "dashboard-phone": ("phone-dark-rollouts-r1", 360, 720),
}


def main(seen: Path) -> None:
    """Writes each picture with few colours."""
    for name, (source, width, height) in PICTURES.items():
        picture = Image.open(seen / f"{source}.png").convert("RGB")
        scale = min(1.0, width / picture.width)
        size = (round(picture.width * scale), round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
        picture = picture.crop((0, 0, size[0], min(size[1], height)))
        target = ROOT / "docs" / "pictures" / f"{name}.png"
        few = picture.quantize(64, dither=Image.Dither.NONE)
        few.save(target, optimize=True)
        sys.stdout.write(f"{target.name}: {target.stat().st_size} bytes\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SEEN)
