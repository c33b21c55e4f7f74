"""Makes docs/results/<date>-gpu/{results.json,README.md} from what bench/gpu/kernels.py and test/gpu/engine.ts wrote.

    python3 bench/gpu/report.py FOLDER COMMIT TARGET_FOLDER      FOLDER holds kernels-all.json, floor.json, engine.json, loading.json

A row: {name, value, unit, floor, ratio, aim, higherIsBetter}; floor, ratio and aim are null where there is none. Floors: the best of 12 cuBLASLt
algorithms per shape, all products of a step in one graph; plus KV bytes over the read bandwidth of the same run; prefill also adds attention at
cuDNN's rate and the elementwise kernels' bytes over the read bandwidth. The engine's floor is what its prompts and decode steps take as bare graphs:
prompt tokens x prefill ms a token + the sum over the output tokens of step(batch, KV). A batch-invariant row's floor is what it takes without; so is
that of the fp8 engine. An fp8 decode step's floor is its bytes over the read bandwidth, an fp8 prefill's has torch's row-wise scaled products."""
import json
import os
import re
import sys

LAYERS, HIDDEN, INTER, QKV, HEADS, DIM = 36, 4096, 12288, 6144, 32, 128
STEP_AIMS = {(1, 512): 1.08, (32, 2048): 1.15, (256, 1024): 1.25}
HOST_AIMS = {1: 0.03, 256: 0.05}
LOADING_SECONDS = 8


class Report:
    def __init__(self, folder):
        self.kernels = load(os.path.join(folder, "kernels-all.json"))
        self.floors = load(os.path.join(folder, "floor.json"))["rows"]
        self.engine = load(os.path.join(folder, "engine.json"))["rows"]
        loading = os.path.join(folder, "loading.json")
        self.loading = load(loading)["rows"] if os.path.exists(loading) else []
        self.by_name = {row["name"]: row for row in self.kernels["rows"]}
        self.products = {int(row["name"].split()[-1]): row["value"] for row in self.floors if re.match(r"gemm floor rows \d+$", row["name"])}
        self.read = self.by_name["read bandwidth"]["value"]
        self.rows = []

    def add(self, name, value, unit, floor=None, ratio=None, aim=None, higher=False):
        if floor is not None and ratio is None:
            ratio = value / floor
        self.rows.append({"name": name, "value": value, "unit": unit, "floor": floor, "ratio": ratio, "aim": aim, "higherIsBetter": higher})

    def bandwidths(self):
        for name in ("read bandwidth", "copy bandwidth (read + write)", "pinned host to device"):
            self.add(name, self.by_name[name]["value"], self.by_name[name]["unit"], higher=True)
        for count, ms in self.products.items():
            self.add(f"product floor, {count} rows", ms, "ms")

    def kernel(self, row):
        name = row["name"]
        step = re.match(r"step decode (\d+) x 1 kv (\d+)$", name)
        prefill = re.match(r"step prefill 1 x (\d+)$", name.split(" kv")[0])
        decode = re.match(r"decode attention batch (\d+) kv (\d+)$", name)
        if step:
            count, kv = int(step[1]), int(step[2])
            self.add(f"decode step, batch {count}, KV {kv}", row["value"], "ms", self.products[count] + row["kv_read"], aim=STEP_AIMS.get((count, kv)))
        elif prefill:
            count = int(prefill[1])
            self.add(f"prefill, {count} tokens", row["value"], "ms", self.products[count] + self.between_products(count), aim=1.08 if count == 2048 else None)
        elif decode:
            aim = 0.9 if (decode[1], decode[2]) == ("32", "4096") else None
            self.add(f"decode attention, batch {decode[1]}, KV {decode[2]}", row["tbps"], "TB/s", self.read, aim=aim, higher=True)
        elif name.startswith("prefill attention"):
            cudnn = row.get("cudnn_tflops")
            title = name.replace("prefill attention", "prefill attention,")
            self.add(title, row["tflops"], "TFLOP/s", cudnn, aim=1.0 if cudnn and "16 x" not in name else None, higher=True)
            if cudnn:
                self.add(title + " (FlashAttention-2, same run)", row["flash2_tflops"], "TFLOP/s", higher=True)
        elif re.match(r"sample|rmsnorm|rope_store|act_mul", name):
            self.add(name, row["value"], row["unit"])
        elif variant := re.match(r"(fp8|fp8 and fp8 kv|invariant) (step (decode|prefill) (\d+) x (\d+) kv (\d+))$", name):
            self.variant(row, *variant.groups())
        elif attention := re.match(r"fp8 kv decode attention batch (\d+) kv (\d+)$", name):
            self.add(f"fp8 KV, decode attention, batch {attention[1]}, KV {attention[2]}", row["tbps"], "TB/s", self.read, higher=True)
        elif name.startswith("fp8 kv prefill attention"):
            self.add(name.replace("fp8 kv prefill attention", "fp8 KV, prefill attention,"), row["tflops"], "TFLOP/s", higher=True)
        elif name.startswith("fp8 gemm floor"):
            self.add(name.replace("gemm floor rows 2048", "product floor, 2048 rows"), row["value"], row["unit"])

    def variant(self, row, prefix, plain, kind, count, queries, kv):
        """A whole step with other dtypes or in other kernels."""
        name = f"decode step, batch {count}, KV {kv}" if kind == "decode" else f"prefill, {kv} tokens"
        if prefix == "invariant":
            return self.add(f"batch-invariant {name}", row["value"], "ms", self.by_name[plain]["value"] if plain in self.by_name else None)
        title = "fp8 weights" if prefix == "fp8" else "fp8 weights and KV"
        if kind == "decode":
            return self.add(f"{title}, {name}", row["value"], "ms", self.by_name["weight bytes"]["value"] / 2 / self.read + row["kv_read"])
        products = self.by_name.get(f"fp8 gemm floor rows {kv} (torch, row-wise scales)")
        floor = None if products is None else products["value"] + self.between_products(int(kv))
        return self.add(f"{title}, {name}", row["value"], "ms", floor, aim=1.12 if floor and kv == "2048" else None)

    def between_products(self, count):
        """Attention at cuDNN's rate and the elementwise kernels' bytes, in ms."""
        cudnn = self.by_name[f"prefill attention 1 x {count} of kv {count}"]["cudnn_tflops"]
        attention = 4 * (count * (count + 1) / 2) * HEADS * DIM / cudnn / 1e9
        elementwise = 2 * count * (2 * 4 * HIDDEN + 2 * QKV + 3 * INTER) / self.read / 1e9
        return LAYERS * (attention + elementwise)

    def engine_floor_ms(self, count, prompt, out):
        """None where the bare steps were not measured at this batch."""
        prefill = self.by_name.get("step prefill 1 x 2048 kv 2048")
        measured = sorted((int(m[1]), row["value"]) for name, row in self.by_name.items() if (m := re.match(rf"step decode {count} x 1 kv (\d+)$", name)))
        if prefill is None or len(measured) < 2:
            return None
        return count * prompt * prefill["value"] / 2048 + sum(interpolate(measured, prompt + i) for i in range(1, out))

    def engine_row(self, row, plain):
        name, value, unit = row["name"], row["value"], row["unit"]
        run = re.match(r"engine (\d+) x (\d+) in (\d+) out: (.*)$", name)
        if run and run[4] == "output rate":
            count, prompt, out = int(run[1]), int(run[2]), int(run[3])
            floor = self.engine_floor_ms(count, prompt, out)
            rate = None if floor is None else count * out / floor * 1000
            self.add(name, value, unit, rate, aim=0.9 if count == 256 and rate else None, higher=True)
        elif run and "host's share" in run[4]:
            self.add(name, value, unit, 100, aim=HOST_AIMS.get(int(run[1])) if run[2] in ("448", "512") else None)
        else:
            variant = re.match(r"(fp8 engine, fp8 KV|fp8 engine|batch-invariant engine) ", name)
            base = plain.get(name.replace(variant[1], "engine", 1)) if variant else None
            self.add(name, value, unit, base, higher=unit == "tok/s")

    def all(self):
        self.bandwidths()
        for row in self.kernels["rows"]:
            self.kernel(row)
        plain = {row["name"]: row["value"] for row in self.engine}
        for row in self.engine:
            self.engine_row(row, plain)
        for row in self.loading:
            bytes_found = re.search(r"\(([\d.]+) GB\)", row["name"])
            floor = float(bytes_found[1]) / self.by_name["pinned host to device"]["value"] if bytes_found else None
            aim = LOADING_SECONDS / floor if floor else None
            self.add(row["name"], row["value"], row["unit"], floor, aim=aim, higher=row["unit"] == "GB/s")
        return self.rows


def load(path):
    with open(path) as file:
        return json.load(file)


def interpolate(points, x):
    """Linear between measured points, and on beyond the outer ones."""
    right = next((i for i in range(1, len(points)) if points[i][0] >= x), len(points) - 1)
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def mark(row):
    if row["aim"] is None:
        return ""
    return " ✓" if (row["ratio"] >= row["aim"]) == row["higherIsBetter"] or row["ratio"] == row["aim"] else " ✗"


def write(target, machine, commit, rows):
    os.makedirs(target, exist_ok=True)
    with open(os.path.join(target, "results.json"), "w") as file:
        json.dump({"machine": machine, "commit": commit, "command": "npm run bench:gpu", "rows": rows}, file, indent=1)
    cell = lambda v, digits=3: "" if v is None else f"{v:.{digits}f}"
    with open(os.path.join(target, "README.md"), "w") as file:
        file.write(f"# GPU: {machine}\n\nCommit {commit}. Made by `npm run bench:gpu`; conditions and floors are explained in `bench/gpu/kernels.py` and\n"
                   "`bench/gpu/report.py`, what was tried in [the log](../../experiments/cuda-kernels.md). A ratio is value ÷ floor; where more is better it is a share.\n\n"
                   "| what | value | unit | floor | ratio | aim |\n|---|---:|---|---:|---:|---:|\n")
        for row in rows:
            file.write(f"| {row['name']} | {row['value']:.4g} | {row['unit']} | {cell(row['floor'])} | {cell(row['ratio'])} | {cell(row['aim'], 2)}{mark(row)} |\n")


def main():
    folder, commit, target = sys.argv[1:4]
    report = Report(folder)
    rows = report.all()
    write(target, report.kernels["machine"], commit, rows)
    met = [row for row in rows if row["aim"] is not None]
    print(f"{len(rows)} rows in {target}; {sum('✓' in mark(row) for row in met)} of {len(met)} aims met")
    for row in met:
        print(f"  {row['name']:70} {row['value']:10.4g} {row['unit']:8} ratio {row['ratio']:.3f} aim {row['aim']:.2f}{mark(row)}")


if __name__ == "__main__":
    main()
