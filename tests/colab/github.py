"""Stand-in for GitHub: git on this machine takes a folder for a repository there."""

import subprocess
from pathlib import Path

AUTHOR = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]


def publish(folder: Path, repository: str) -> dict[str, str]:
    """Commit what is in `folder` to its branch main.

    repository: `owner/name` that the folder stands for.
    Returns: the environment in which git finds it under that address.
    """
    git(folder, "init", "--initial-branch=main")
    git(folder, "add", "--all", "--force")
    git(folder, *AUTHOR, "commit", "--allow-empty", "--message", "As it is now")
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{folder.resolve().as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{repository}",
    }


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)
