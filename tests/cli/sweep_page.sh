#!/usr/bin/env bash
# The page of a sweep in a real browser: plots and all rows are there, a click on a heading sorts.
. "$(dirname "$0")/helpers.inc"
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) ||
    { echo "no chromium here: the page is not looked at"; exit 77; }
command -v gnuplot > /dev/null || { echo "gnuplot is needed"; exit 77; }
cd "$work" || exit 1
make_model m --dtype f32
make_text text.txt 100
echo '{"model": "m", "data": {"train": "text.txt", "eval": "text.txt", "seq_len": 32, "eval_tokens": 100},
 "stages": [{"prune": {"ffn": 0.5, "score": "l2"}}, {"train": {"steps": 3, "batch": 2}}]}' > r.json
"$PDQ" sweep r.json --vary prune.ffn=0.25,0.5,0.75 -o s > /dev/null 2> err.txt || { cat err.txt; exit 1; }
# a copy that clicks on "loss", as a reader would
sed 's|</body>|<script>document.querySelectorAll("#points th")[4].click()</script></body>|' s/sweep.html > clicked.html
timeout 60 "$browser" --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
    --disable-component-update --disable-sync --user-data-dir="$work/profile" --dump-dom "file://$work/clicked.html" > dom.html 2> /dev/null ||
    { echo "the browser does not run here"; exit 77; }
python3 - << 'END' || fail "the page as the browser has it"
import re
dom = open("dom.html").read()
assert dom.count("<svg") == 9, dom.count("<svg")  # three trades, six loss curves
rows = re.findall(r"<tr>(.*?)</tr>", dom[dom.index('id="points"'):], re.S)[1:]
cells = [re.findall(r"<td>(.*?)</td>", r) for r in rows]
assert len(cells) == 7, len(cells)  # the parent, three points, three controls
losses = [float(c[3]) for c in cells]
assert losses == sorted(losses), losses
END
exit $failed
