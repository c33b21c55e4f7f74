"""Makes docs/results/<date>-gpu/{results.json,README.md} from what bench/gpu/kernels.py and test/gpu/engine.ts wrote.

    python3 bench/gpu/report.py KERNELS.json FLOOR.json ENGINE.json COMMIT TARGET_FOLDER

A row: {name, value, unit, floor, ratio, aim, higherIsBetter}; floor, ratio and aim are null where there is none. Floors: the best of 12 cuBLASLt
algorithms per shape, all products of a step in one graph; plus KV bytes over the read bandwidth of the same run; prefill also adds attention at
cuDNN's rate and the elementwise kernels' bytes over the read bandwidth."""
import json
import os
import re
import sys

LAYERS, HIDDEN, INTER, QKV, HEADS, DIM = 36, 4096, 12288, 6144, 32, 128


def load(path):
    with open(path) as file:
        return json.load(file)


def main():
    kernels, floor, engine, commit, target = load(sys.argv[1]), load(sys.argv[2]), load(sys.argv[3]), sys.argv[4], sys.argv[5]
    by_name = {row["name"]: row for row in kernels["rows"]}
    products = {int(row["name"].split()[-1]): row["value"] for row in floor["rows"] if row["name"].startswith("gemm floor")}
    read = by_name["read bandwidth"]["value"]
    rows = []

    def add(name, value, unit, floor=None, ratio=None, aim=None, higher=False):
        rows.append({"name": name, "value": value, "unit": unit, "floor": floor, "ratio": ratio, "aim": aim, "higherIsBetter": higher})

    for name in ("read bandwidth", "copy bandwidth (read + write)", "pinned host to device"):
        add(name, by_name[name]["value"], by_name[name]["unit"], higher=True)
    for rows_count, ms in products.items():
        add(f"product floor, {rows_count} rows", ms, "ms")
    aims = {(1, 512): 1.08, (32, 2048): 1.15, (256, 1024): 1.25}
    for row in kernels["rows"]:
        found = re.match(r"step decode (\d+) x 1 kv (\d+)", row["name"])
        if found:
            count, kv = int(found[1]), int(found[2])
            base = products[count] + row["kv_read"]
            add(f"decode step, batch {count}, KV {kv}", row["value"], "ms", base, row["value"] / base, aims.get((count, kv)))
        found = re.match(r"step prefill 1 x (\d+)", row["name"])
        if found:
            count = int(found[1])
            cudnn = by_name[f"prefill attention 1 x {count} of kv {count}"]["cudnn_tflops"]
            attention = 4 * (count * (count + 1) / 2) * HEADS * DIM / cudnn / 1e9
            elementwise = 2 * count * (2 * 4 * HIDDEN + 2 * QKV + 3 * INTER) / read / 1e9
            base = products[count] + LAYERS * (attention + elementwise)
            add(f"prefill, {count} tokens", row["value"], "ms", base, row["value"] / base, 1.08 if count == 2048 else None)
        found = re.match(r"decode attention batch (\d+) kv (\d+)$", row["name"])
        if found:
            aim = 0.9 if (found[1], found[2]) == ("32", "4096") else None
            add(f"decode attention, batch {found[1]}, KV {found[2]}", row["tbps"], "TB/s", read, row["tbps"] / read, aim, True)
        if row["name"].startswith("prefill attention"):
            name = row["name"].replace("prefill attention", "prefill attention,")
            cudnn = row.get("cudnn_tflops")
            add(name, row["tflops"], "TFLOP/s", cudnn, row["tflops"] / cudnn if cudnn else None, 1.0 if cudnn and "16 x" not in name else None, True)
            if cudnn:
                add(name + " (FlashAttention-2, same run)", row["flash2_tflops"], "TFLOP/s", None, None, None, True)
        if row["name"].startswith("sample") or re.match(r"(rmsnorm|rope_store|act_mul)", row["name"]):
            add(row["name"], row["value"], row["unit"])
    for row in engine["rows"]:
        add(row["name"], row["value"], row["unit"], higher=row["unit"] == "tok/s")
    os.makedirs(target, exist_ok=True)
    with open(os.path.join(target, "results.json"), "w") as file:
        json.dump({"machine": kernels["machine"], "commit": commit, "rows": rows}, file, indent=1)
    cell = lambda v, digits=3: "" if v is None else f"{v:.{digits}f}"
    with open(os.path.join(target, "README.md"), "w") as file:
        file.write(f"# GPU: {kernels['machine']}\n\nCommit {commit}. Made by `bench/gpu/run.sh`; conditions and floors are explained in `bench/gpu/kernels.py` and\n"
                   "`bench/gpu/report.py`, what was tried in [the log](../../experiments/cuda-kernels.md). A ratio is value ÷ floor; where more is better it is a share.\n\n"
                   "| what | value | unit | floor | ratio | aim |\n|---|---:|---|---:|---:|---:|\n")
        for row in rows:
            met = "" if row["aim"] is None else " ✓" if (row["ratio"] >= row["aim"]) == row["higherIsBetter"] or row["ratio"] == row["aim"] else " ✗"
            file.write(f"| {row['name']} | {row['value']:.4g} | {row['unit']} | {cell(row['floor'])} | {cell(row['ratio'])} | {cell(row['aim'], 2)}{met} |\n")
    print(f"{len(rows)} rows in {target}")


if __name__ == "__main__":
    main()
