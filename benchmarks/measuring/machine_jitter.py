"""How late this machine wakes a process that does nothing but wait 10 ms at a time.

It prints ``ready``, and when it is terminated the share of its timers that were more than 2 ms late: as much as the
client's token bucket forgives.
"""

import signal
import sys
import time

PERIOD = 0.01
LATE = 0.002


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    timers = late = 0
    print("ready", flush=True)
    try:
        while True:
            due = time.monotonic() + PERIOD
            time.sleep(PERIOD)
            timers += 1
            late += time.monotonic() - due > LATE
    finally:
        print(late / max(timers, 1), flush=True)


if __name__ == "__main__":
    main()
