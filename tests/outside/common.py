"""What the checks outside of cargo share: waiting for a fact, and saying that a step holds."""

import time


def wait(what, look, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what}: it never came")


def ok(text):
    print(f"ok: {text}", flush=True)
