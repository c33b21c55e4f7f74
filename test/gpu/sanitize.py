"""compute-sanitizer's memcheck and racecheck over the op tests at small shapes, one process for each part, one table. Errors count when one of our
kernels is named, or no kernel that is known to be a library's: cuBLASLt's own (nvjet_*) have hazards that racecheck reports and nobody here can mend.

    python3 test/gpu/sanitize.py [tool:part …]      needs compute-sanitizer on the PATH; exit code 1 when an error is ours or a run did not end"""
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.environ.get("OUT", "/tmp")
TOOLS = ("memcheck", "racecheck")
PARITY = os.path.join(HERE, "parity.py")
SECONDS_MAX = int(os.environ.get("SANITIZE_SECONDS_MAX", "600"))  # a part
OURS = re.compile(r"\bpd::|_ZN2pd")
LIBRARY = re.compile(r"\bnvjet_|\bcublas|\bcutlass::|\bxmma_|\bsm\d+_xmma|\bat::native|\bcub::")
SUMMARY = re.compile(r"========= (ERROR|RACECHECK) SUMMARY: (.*)")
AT_ONCE = 6


def parts():
    """All parts that parity.py has, so that a new one is not forgotten here."""
    with open(PARITY) as file:
        found = re.findall(r'\("(\w+)", lambda', file.read())
    assert found, "parity.py has no parts: nothing would be checked"
    return found


def records(text):
    """A record is an unindented line of the sanitizer and the indented ones after it."""
    found = []
    for line in text.splitlines():
        if not line.startswith("========="):
            continue
        body = line[len("========="):]
        if re.match(r" \S", body) and not SUMMARY.match(line) and "COMPUTE-SANITIZER" not in body:
            found.append(body.strip())
        elif found and body.strip():
            found[-1] += "\n" + body.strip()
    return found


def run(job):
    tool, part = job
    began = time.time()
    log = os.path.join(OUT, f"sanitize-{tool}-{part}.log")
    with open(log, "w") as file:
        command = ["timeout", str(SECONDS_MAX), "compute-sanitizer", "--tool", tool, sys.executable, PARITY, "7", part]
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "PD_SMALL": "1", "OUT": ""}, check=False).returncode
    with open(log, errors="replace") as file:
        text = file.read()
    all_records = records(text)
    foreign = [r for r in all_records if LIBRARY.search(r) and not OURS.search(r)]
    ours = [r for r in all_records if r not in foreign]
    return {"tool": tool, "part": part, "status": status, "ended": bool(SUMMARY.search(text)), "ours": ours, "foreign": foreign, "seconds": time.time() - began}


def main():
    jobs = [tuple(a.split(":")) for a in sys.argv[1:]] or [(tool, part) for tool in TOOLS for part in parts()]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(run, jobs))
    print(f"{'tool':12}{'part':14}{'ours':>6}{'libraries':>11}{'seconds':>9}")
    failed = 0
    for r in results:
        ok = r["status"] == 0 and r["ended"] and not r["ours"]
        failed += not ok
        note = "" if ok else "  FAIL" + ("" if r["ended"] else ": the sanitizer did not finish") + ("" if r["status"] == 0 else f": exit code {r['status']}")
        print(f"{r['tool']:12}{r['part']:14}{len(r['ours']):6}{len(r['foreign']):11}{r['seconds']:9.0f}{note}")
        for record in r["ours"][:3]:
            print("    " + record.replace("\n", "\n    ")[:600])
    print(f"{len(results) - failed} of {len(results)} clean; logs: {OUT}/sanitize-*.log")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
