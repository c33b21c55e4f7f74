"""One table of what test/gpu/run.sh ran: a line per op or part, then every failure. Exit code 1 when anything failed or did not run.

    python3 test/gpu/table.py NAME=FILE …      parity.json of parity.py, engine.json of engine.ts"""
import json
import sys


def load(path):
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        return {"missing": str(error)}


def cases_of(data):
    """(group, case, ok, detail) of either file."""
    if "missing" in data:
        return [("did not finish", data["missing"], False, "see its log")]
    if "rows" in data and data["rows"] and "op" in data["rows"][0]:
        return [(row["op"], row["case"], row["ok"], row["detail"]) for row in data["rows"]]
    return [(group_of(check["name"]), check["name"], check["ok"], check["detail"]) for check in data["checks"]]


def group_of(name):
    for word in ("batch-invariant", "hand-over", "teacher-forced", "no numbers"):
        if word in name:
            return word
    return "goldens" if " chunks of " in name else name


def main():
    failures, total = [], 0
    print(f"{'part':14}{'what':28}{'cases':>7}{'failed':>8}")
    for argument in sys.argv[1:]:
        part, path = argument.split("=", 1)
        groups = {}
        for group, case, ok, detail in cases_of(load(path)):
            counts = groups.setdefault(group, [0, 0])
            counts[0] += 1
            counts[1] += not ok
            total += 1
            if not ok:
                failures.append(f"FAIL {part} {group}: {case}: {detail}"[:300])
        for group, (cases, failed) in groups.items():
            print(f"{part:14}{group[:27]:28}{cases:7}{failed:8}")
    for failure in failures:
        print(failure)
    print(f"{total - len(failures)} of {total} passed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
