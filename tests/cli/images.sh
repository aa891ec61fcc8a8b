#!/usr/bin/env bash
# Classifiers of images from the command line: Hinton's recipe in little: teacher, student alone, student taught, a class left out and its
# bias corrected; what is said, what lies in the folders, what is refused.
. "$(dirname "$0")/helpers.inc"
data=$PDQ_SOURCE_DIR/../shared/data/mnist
[ -d "$data" ] || data=/usr/share/datasets/fashion-mnist
[ -d "$data" ] || { echo "no idx files: ../shared/data/mnist is absent and dataset-fashion-mnist is not installed"; exit 77; }
cd "$work" || exit 1
cp -r "$PDQ_SOURCE_DIR/recipes/mnist-teacher" "$PDQ_SOURCE_DIR/recipes/mnist-student" .
sed -i 's/1200/160/g' mnist-teacher/config.json
sed -i 's/800/60/g' mnist-student/config.json
sed 's/22000/400/g; s/11000/300/g; s/"log_every": 100/"log_every": 10/; s/"dropout": 0.5/"dropout": 0.1/' \
    "$PDQ_SOURCE_DIR/recipes/hinton-mnist.json" > hinton.json
OMP_NUM_THREADS=2 "$PDQ" run hinton.json -o out --set data="$data" > out.txt 2> log.txt || fail "the recipe: $(tail -1 log.txt)"
OMP_NUM_THREADS=1 "$PDQ" run hinton.json -o one --set data="$data" > one.txt 2> log.txt || fail "on one thread: $(tail -1 log.txt)"
python3 - << 'PY' || fail "the report"
import json
a, b = (json.load(open(f"{x}/report.json")) for x in ("out", "one"))
assert a.pop("measured") and b.pop("measured") and a == b, "threads change the result"
v = {x["name"]: x for x in a["variants"]}
teacher, alone, taught, without = (v[n] for n in ("teacher", "student alone", "distilled", "distilled, no 3s"))
assert teacher["errors"] < 4000 and alone["errors"] < 4000 and taught["errors"] < 4000, "nothing was learned"
assert taught["parameters"] == alone["parameters"] < teacher["parameters"]
m = without["runs"][0]["stages"][1]["missing_class"]
assert m["class"] == 3 and m["errors"] == without["errors"] and m["images_of_class"] > 900
# never shown, known all the same from what the teacher says of other images; raising its bias helps
assert m["corrected_errors"] <= m["errors"] and m["corrected_errors_of_class"] <= m["errors_of_class"], m
assert len(without["runs"][0]["rows"][-1]["errors_by_class"]) == 10
PY
[ "$(ls out/stages | grep -c '^train')" = 2 ] || fail "the teacher was trained more than once: $(ls out/stages)"
grep -q 'without class 3' out.txt || fail "nothing is said of the class left out"

refused 1 'distill.hidden: a lenet model has no blocks whose states could be compared' "$PDQ" run hinton.json -o bad --set data="$data" --set 'variants=[{"name":"a","stages":[{"train":{"init":true,"steps":1}},{"distill":{"shape":"mnist-student","hidden":1,"steps":1}}]}]'
echo '{"model_type": "lenet", "layer_sizes": [784, 60, 12], "hidden_act": "relu"}' > mnist-student/config.json
refused 1 'shape: a lenet of 784 inputs and 12 classes; the recipe.s model is a lenet of 784 and 10' "$PDQ" run hinton.json -o bad --set data="$data" --set 'variants=[{"name":"a","stages":[{"train":{"shape":"mnist-student","steps":1}}]}]'
echo '{"model_type": "lenet", "layer_sizes": [784], "hidden_act": "relu"}' > mnist-student/config.json
refused 1 'layer_sizes is a list; expected a list of 3 to 64' "$PDQ" run hinton.json -o worse --set data="$data"
echo '{"model_type": "lenet", "layer_sizes": [784, 60, 10], "hidden_act": "tanh"}' > mnist-student/config.json
refused 1 'hidden_act "tanh" is not supported for lenet' "$PDQ" run hinton.json -o worse --set data="$data"
echo '{"model_type": "lenet", "layer_sizes": [100, 60, 10]}' > mnist-teacher/config.json
refused 1 'images of 28 x 28 pixels in 10 classes; the model has 100 inputs and 10 classes' "$PDQ" run hinton.json -o worst --set data="$data" --set variants='[{"name":"teacher"}]'
absent bad worse worst
exit $failed
