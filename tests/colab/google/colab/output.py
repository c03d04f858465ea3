"""`eval_js` as Colab has it, but nobody sits at the browser: it answers what a test has put here.

The real one returns the value of the script as JSON does: dict, list, str, numbers or None.
"""

answer: object = None
scripts: list[str] = []


def eval_js(script: str, ignore_result=False, timeout_sec=None) -> object:
    scripts.append(script)
    return None if ignore_result else answer
