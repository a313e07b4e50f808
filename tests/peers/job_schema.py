"""Job files that are shown or shipped, checked by jsonschema against `distill explain --json-schema`, and wrong ones
refused."""
import copy
import glob
import json
import re
import subprocess
import sys

import jsonschema
from ruamel.yaml import YAML

load = YAML(typ="safe", pure=True).load  # YAML 1.2, as editors and libyaml's users read 1e-3
schema = json.loads(subprocess.check_output([sys.argv[1], "explain", "--json-schema"], text=True))
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
texts = {path: open(path).read() for path in glob.glob("docs/report/*.yaml") + glob.glob("deploy/*.yaml")}
examples = re.findall(r"\n```yaml\n(.*?)\n```\n", open("docs/jobs.md").read(), re.S)
texts |= {f"docs/jobs.md, example {i + 1}": text for i, text in enumerate(examples)}
assert len(texts) > 15
failed = 0
for name, text in texts.items():
    for e in validator.iter_errors(load(text)):
        print(f"{name}: {'.'.join(map(str, e.absolute_path))}: {e.message[:200]}")
        failed += 1

good = load(texts["deploy/quickstart-drawn.yaml"])
assert validator.is_valid(good)
for path, value in ((["distill", "epochs"], -1), (["distill", "batch"], "many"), (["distill", "los"], {}), (["student"], []),
                    (["distill", "loss", "temperature"], 0), (["teacher", "model"], "mobilenet_v3"),
                    (["student", "model"], "flowers_teacher")):
    wrong = copy.deepcopy(good)
    at = wrong
    for key in path[:-1]:
        at = at.setdefault(key, {})
    at[path[-1]] = value
    if validator.is_valid(wrong):
        print(f"{'.'.join(path)}: {value!r} is taken")
        failed += 1
print(f"{len(texts)} job files against the schema, {failed} complaints")
sys.exit(failed > 0)
