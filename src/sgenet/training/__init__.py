"""What any training needs, whatever it trains: settings, run folders, checkpoints, progress, and Lightning's loop."""

from sgenet.training.progress import ConsoleProgress, Progress, SilentProgress

__all__ = ["ConsoleProgress", "Progress", "SilentProgress"]
