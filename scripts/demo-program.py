"""What the demo runs behind both walls: some real work, then a look around.

Prints `key: value` lines, so that two runs can be set side by side.
"""
import glob
import os
import platform
import sqlite3
import sys
import time


def read(path, default="-"):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return default


def tell(key, value):
    print(f"{key}: {value}", flush=True)


def memory_mib():
    for line in read("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    return "-"


def work(path):
    """A small shop in SQLite on disk; its answer must be the same everywhere."""
    began = time.monotonic()
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE sale (day INTEGER, item TEXT, price INTEGER)")
    items = ["rope", "anchor", "sail", "lamp"]
    rows = ((n % 365, items[n * 7 % 4], n * 31 % 997) for n in range(20000))
    with db:
        db.executemany("INSERT INTO sale VALUES (?, ?, ?)", rows)
    with db:
        db.execute("CREATE INDEX by_day ON sale (day)")
    best = db.execute(
        "SELECT item, SUM(price) AS total FROM sale WHERE day BETWEEN 100 AND 200"
        " GROUP BY item ORDER BY total DESC, item LIMIT 1"
    ).fetchone()
    check = db.execute("PRAGMA integrity_check").fetchone()[0]
    db.close()
    return best, check, (time.monotonic() - began) * 1000


def main():
    best, check, took = work("/tmp/shop.db")
    tell("answer of SQLite", f"{best[0]} {best[1]}, integrity {check}")
    tell("Python, SQLite", f"{platform.python_version()}, {sqlite3.sqlite_version}")
    tell("20,000 rows took", f"{took:.0f} ms")
    tell("kernel", platform.release())
    tell("host name, user", f"{platform.node()}, uid {os.getuid()}")
    tell("CPUs", os.cpu_count())
    tell("memory", f"{memory_mib()} MiB")
    tell("up for", f"{float(read('/proc/uptime', '0').split()[0]):.0f} s")
    tell("root file system", next((words[2] for words in map(str.split, read("/proc/mounts").splitlines())
                                   if len(words) > 2 and words[1] == "/"), "-"))
    tell("network links", " ".join(sorted(os.listdir("/sys/class/net"))) or "-")
    devices = sorted({os.path.basename(os.path.realpath(path + "/driver"))
                      for path in glob.glob("/sys/bus/virtio/devices/*") if os.path.exists(path + "/driver")})
    tell("virtio drivers", " ".join(devices) or "-")
    tell("PCI devices", len(glob.glob("/sys/bus/pci/devices/*")))
    disks = sorted(name for name in os.listdir("/sys/block") if not name.startswith(("loop", "ram"))) \
        if os.path.isdir("/sys/block") else []
    tell("disks seen", " ".join(disks) or "-")
    modules = read("/proc/modules", "").splitlines()
    tell("kernel modules", len(modules))
    tell("processes", sum(name.isdigit() for name in os.listdir("/proc")))
    return 0


sys.exit(main())
