#!/usr/bin/env bash
# Lottery tickets from the command line: the quick recipe's results are what they must be (and the check can fail), a lottery that is
# killed again and again ends in the same files, a language model has tickets of weights and of units, bad input is named.
. "$(dirname "$0")/helpers.inc"
data=$PDQ_SOURCE_DIR/../shared/data/mnist
[ -d "$data" ] || data=/usr/share/datasets/fashion-mnist
[ -d "$data" ] || { echo "no idx files: ../shared/data/mnist is absent and dataset-fashion-mnist is not installed"; exit 77; }
cd "$work" || exit 1
lottery="$PDQ run $PDQ_SOURCE_DIR/recipes/lottery-quick.json --set data=$data"

# ---- the quick recipe ----

cat > check.py << 'PY'
import json, sys
report = json.load(open(sys.argv[1]))
by = {(r["kind"], r["round"]): r for r in report["rounds"]}
assert [r["round"] for r in report["rounds"] if r["kind"] in ("dense", "ticket")] == list(range(7)), "rounds"
for r in report["rounds"]:
    assert r["seed"] == 1 and abs(r["pm"] + r["sparsity"] - 100) < 1e-9 and 0 < r["early_stop"] <= 5000, r
for n, pm in enumerate([100, 80.0, 64.1, 51.3, 41.1, 32.9, 26.3]):
    assert abs(by[("ticket" if n else "dense", n)]["pm"] - pm) < 0.1, n
dense, ticket = by["dense", 0], by["ticket", 6]
assert 80 < dense["test_acc"] < 100, dense
assert ticket["test_acc"] > dense["test_acc"] - 0.3, "the ticket is worse than dense"
for control in ("reinit", "random_mask"):
    assert by[control, 6]["pm"] == ticket["pm"], control
    assert by[control, 6]["validation_loss"] > ticket["validation_loss"], control + " beats the ticket"
PY
OMP_NUM_THREADS=2 $lottery -o quick > quick.out 2> quick.log || fail "the quick recipe: $(tail -1 quick.log)"
python3 check.py quick/report.json || fail "the quick recipe's results"
sed 's/"kind": *"ticket"/"kind": "was"/; s/"kind": *"random_mask"/"kind": "ticket"/; s/"kind": *"was"/"kind": "random_mask"/' quick/report.json > swapped.json
python3 check.py swapped.json 2> /dev/null && fail "the check passes when ticket and control are swapped"
for file in seed-1/initial seed-1/rewind seed-1/round-06 seed-1/round-06/mask seed-1/round-06-reinit ticket dense; do
    [ -s "quick/01-lottery/$file/model.safetensors" ] || fail "no $file"
done
if command -v gnuplot > /dev/null; then
    [ "$(grep -c '<svg' quick/report.html)" -ge 5 ] || fail "the page has $(grep -c '<svg' quick/report.html) plots"
fi
grep -q 'lottery' quick/report.html && grep -q 'Pm' quick/report.html || fail "the page says nothing of tickets"
"$PDQ" inspect quick/01-lottery/ticket > inspect.out 2>&1 && grep -q '784 inputs, hidden units 300 100' inspect.out || fail "inspect: $(cat inspect.out)"
"$PDQ" eval quick/01-lottery/ticket --data "$data" > eval.out 2>&1 || fail "eval: $(cat eval.out)"
accuracy=$(python3 -c 'import json; print("%.2f" % json.load(open("quick/report.json"))["rows"][-1]["accuracy"])')
grep -q "accuracy *$accuracy %" eval.out || fail "eval says $(tail -1 eval.out), the report $accuracy"

# ---- killed at any moment ----

short="$lottery --set lottery.rounds=2 --set lottery.steps=150 --set lottery.eval_every=30 --set lottery.snapshot_every=20
    --set lottery.controls=[\"magnitude_at_init\"] --set lottery.methods={\"snip\":[5],\"rigl\":[10],\"set\":[10]} --set lottery.update_every=25
    --set lottery.stability={\"at\":[0,40],\"rounds\":[0,1]} --set lottery.rewind={\"to\":\"20%\"} --set lottery.seeds=[1,2]"
OMP_NUM_THREADS=2 $short -o whole > whole.out 2> whole.log || fail "a short lottery: $(tail -1 whole.log)"
for pause in 0.7 1.3 2.1 0.9 1.7 2.9; do
    OMP_NUM_THREADS=2 $short -o killed > killed.out 2> killed.log &
    sleep $pause
    kill -9 $! 2> /dev/null
    wait $! 2> /dev/null
done
OMP_NUM_THREADS=1 $short -o killed > killed.out 2> killed.log || fail "resuming: $(tail -1 killed.log)"
measured="! -name DONE ! -name report.* ! -name .lock ! -name speed-*.json"
set -f # the patterns are for find
(cd whole && find . -type f $measured | sort | xargs sha256sum) > whole.sums
(cd killed && find . -type f $measured | sort | xargs sha256sum) > killed.sums
set +f
grep -q 'snapshot\|tmp-' killed.sums && fail "left behind: $(grep 'snapshot\|tmp-' killed.sums | head -1)"
diff whole.sums killed.sums > /dev/null || fail "killed and whole differ: $(diff whole.sums killed.sums | head -4)"
grep -q ' \./01-lottery/seed-2/stability-01-at-40/result.json' whole.sums || fail "no stability of a ticket"
python3 - << 'PY' || fail "reports of whole and killed differ"
import json
a, b = (json.load(open(f"{x}/report.json")) for x in ("whole", "killed"))
assert a.pop("measured") and b.pop("measured") and a == b
PY
before=$(stat -c %Y.%s killed/01-lottery/seed-1/round-02/result.json)
OMP_NUM_THREADS=1 $short -o killed > again.out 2> again.log || fail "running again: $(tail -1 again.log)"
[ "$before" = "$(stat -c %Y.%s killed/01-lottery/seed-1/round-02/result.json)" ] || fail "a training that was done is done again"

# ---- ^C, and files that were damaged ----

OMP_NUM_THREADS=2 $short -o stopped --set lottery.steps=100000 --set lottery.snapshot_every=0 > stopped.out 2> stopped.log &
child=$!
for _ in $(seq 100); do [ -d stopped/01-lottery/seed-1/rewind ] && break; sleep 0.1; done
sleep 1
kill -INT $child
wait $child
code=$?
[ $code = 1 ] || fail "interrupted: exit $code"
tail -1 stopped.log | grep -q 'interrupted.*run the same command again to go on' || fail "interrupted: $(tail -1 stopped.log)"
[ -s stopped/01-lottery/seed-1/rewind/snapshot ] || fail "^C leaves no snapshot"
truncate -s 100 killed/01-lottery/seed-1/round-01/mask/model.safetensors
rm killed/01-lottery/DONE killed/01-lottery/seed-1/round-02/result.json
refused 1 'seed-1/round-01/mask.*model.safetensors' env OMP_NUM_THREADS=1 $short -o killed --log quiet

# ---- a language model ----

make_model model
make_text text 400
cat > text.json << 'JSON'
{"model": "model", "data": {"train": "text", "eval": "text", "seq_len": 32, "eval_tokens": 400},
 "stages": [{"lottery": {"rounds": 2, "rate": 0.5, "rewind": {"to": 4}, "controls": ["reinit", "random_mask"], "steps": 12, "batch": 4,
  "learning_rate": 1e-3, "eval_every": 6}}]}
JSON
for grain in weights units; do
    "$PDQ" run text.json -o "$grain" --set lottery.granularity=$grain > text.out 2> text.log || fail "tickets of $grain: $(tail -1 text.log)"
    "$PDQ" eval "$grain/01-lottery/ticket" --data text --seq-len 32 > /dev/null 2> eval.log || fail "the ticket does not load: $(cat eval.log)"
done
python3 - << 'PY' || fail "tickets of a language model"
import json
for grain, pm in (("weights", 25), ("units", None)):
    rounds = json.load(open(f"{grain}/report.json"))["rounds"]
    assert [r["kind"] for r in rounds] == ["dense", "ticket", "ticket", "reinit", "random_mask"], rounds
    assert pm is None or abs(rounds[2]["pm"] - pm) < 0.1, rounds[2]
    assert len({r["pm"] for r in rounds[2:]}) == 1, rounds
    assert rounds[0]["rewind"] == 4 and rounds[3]["rewind"] == 0 and rounds[2]["test_acc"] is None
PY

"$PDQ" run text.json -o rates --set 'lottery.rewind={"to":4,"weights":false}' > text.out 2> text.log || fail "the rate alone rewound: $(tail -1 text.log)"
"$PDQ" run text.json -o start --set 'lottery.rewind={"to":"init"}' > text.out 2> text.log || fail "rewound to the start: $(tail -1 text.log)"
"$PDQ" run text.json -o own --set lottery.init=false --set lottery.scope=global > text.out 2> text.log || fail "from own weights: $(tail -1 text.log)"
python3 - << 'PY' || fail "rewinding the rate alone, own weights"
import json
of = lambda folder: {(r["kind"], r["round"]): r for r in json.load(open(f"{folder}/report.json"))["rounds"]}
plain, rates, own, start = of("weights"), of("rates"), of("own"), of("start")
# From step 4 on with that step's weights and moments is the same training as one from the start.
assert rates["dense", 0]["final_validation_loss"] == start["dense", 0]["final_validation_loss"], "moments are rewound with the weights"
assert rates["dense", 0] == plain["dense", 0], "the dense training is the same"
assert rates["ticket", 1]["validation_loss"] < plain["ticket", 1]["validation_loss"], "kept weights are ahead of rewound ones"
assert own["dense", 0]["validation_loss"] != plain["dense", 0]["validation_loss"] and abs(own["ticket", 2]["pm"] - 25) < 0.1
PY

# ---- bad input ----

refused 1 'unknown key "round".*"rounds"' $lottery -o bad --set lottery.round=3
refused 1 'rewind.to: expected "init"' $lottery -o bad --set 'lottery.rewind={"to":"9000"}'
refused 1 '"controls": found lottery, expected of: reinit, random_mask' $lottery -o bad --set 'lottery.controls=["lottery"]'
refused 1 '"control_rounds": found another number, expected whole numbers from 1 to 6' $lottery -o bad --set 'lottery.control_rounds=[7]'
refused 1 '"methods": found snap, expected of: snip, grasp' $lottery -o bad --set 'lottery.methods={"snap":[5]}'
refused 1 'expected a folder with MNIST.s four idx files' "$PDQ" run "$PDQ_SOURCE_DIR/recipes/lottery-quick.json" -o bad --set data="$work/none"
refused 1 'prune works on language models; this one is a classifier of images' \
    "$PDQ" run "$PDQ_SOURCE_DIR/recipes/lottery-quick.json" -o bad --set model="$work/quick/01-lottery/dense" --set data="$data" \
    --set 'stages=[{"prune":{"ffn":0.5}}]'
refused 1 'are for classifiers of images; this is a language model' "$PDQ" run text.json -o bad --set lottery.dropout=0.5
refused 1 'a classifier of images .model_type lenet.; this works on language models' "$PDQ" generate quick/01-lottery/ticket --prompt x
refused 1 'expected one --data, the folder of the idx files' "$PDQ" eval quick/01-lottery/ticket --data "$data" --data "$data"
mkdir cut && cp "$data"/* cut/ 2> /dev/null && chmod u+w cut/* && gunzip cut/t10k-labels* 2> /dev/null
truncate -s 5000 cut/t10k-labels-idx1-ubyte
refused 1 't10k-labels-idx1-ubyte: 4992 values after the header, which announces 10000' "$PDQ" run "$PDQ_SOURCE_DIR/recipes/lottery-quick.json" -o bad --set data="$work/cut"
absent bad
exit $failed
