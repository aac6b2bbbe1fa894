"""The page of Counterview as a Hugging Face Space."""

import sys

from counterview.cli.main import main

OPTIONS = [
    "serve", "--host", "0.0.0.0", "--port", "7860", "--max-image-mb", "15", "--max-megapixels", "24",
    "--max-video-mb", "100", "--max-video-seconds", "60", "--keep", "1800",
]  # fmt: skip

if __name__ == "__main__":
    sys.exit(main(OPTIONS))
