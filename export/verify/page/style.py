"""Style sheet of the report page, and the definitions at its end."""

# ruff: noqa: E501 - markup reads better in one line

from __future__ import annotations

STYLE = """
:root{--ink:#1b1f24;--soft:#5c6670;--line:#d9dee3;--card:#fff;--page:#f4f6f8;--good:#1a7f4b;--bad:#c0362c;--mark:#2458c5}
@media(prefers-color-scheme:dark){:root{--ink:#e8ebee;--soft:#9aa5b0;--line:#333b44;--card:#1b2027;--page:#12161b;
--good:#4cc38a;--bad:#ff7b6e;--mark:#7aa5ff}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:16px/1.45 system-ui,sans-serif}
main{max-width:760px;margin:0 auto;padding:16px}h1{font-size:1.35rem;margin:.2rem 0}h3{font-size:.95rem;margin:.8rem 0 .2rem}h2{font-size:1.1rem;margin:0 0 .4rem}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px;margin:12px 0;min-width:0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:10px}
.tile b{display:block;font-size:1.3rem}.tile span,.note,figcaption{color:var(--soft);font-size:.85rem}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;padding:6px 8px;border-bottom:1px solid var(--line);vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.good{color:var(--good)}.bad{color:var(--bad)}svg{width:100%;max-width:560px;height:auto;display:block}svg text{fill:var(--ink)}
svg .soft{fill:var(--soft)}svg .axis{stroke:var(--line)}details{margin-top:8px}summary{cursor:pointer}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:8px;margin:4px 0 12px}.pair div{border:1px solid var(--line);
border-radius:6px;padding:6px 8px;overflow-wrap:anywhere}.pair small{color:var(--soft);display:block}
@media(max-width:480px){th,td{padding:5px 3px;font-size:.78rem}main{padding:10px}section{padding:12px}}
figure{margin:6px 0}figure img{max-width:100%;min-width:96px;border:1px solid var(--line);image-rendering:auto}audio{width:100%;max-width:340px}
.lead{font-size:1.05rem;margin:.3rem 0 .6rem}.asked{margin:4px 0;white-space:pre-line}.made{display:grid;grid-template-columns:auto 1fr;gap:2px 12px;
margin:0;font-size:.85rem}.made dt{margin:0;font-weight:400;color:var(--soft)}.made dd{overflow-wrap:anywhere}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.75rem}dt{font-weight:600;margin-top:.5rem}dd{margin:0}
"""

DEFINITIONS = {
    "KL": "Kullback-Leibler divergence of the bundle's next-token distribution from the float model's, in nats; the mean"
    " over the first tokens of the float model's answers. Computed by the bundle's own"
    " kernels, with 8-bit activations where it asks for them. 0 is no difference.",
    "KL of weights, of activations": "What the stored weights lose when kernels compute in float32 (accuracy level 0), and"
    " how far the bundle's own 8-bit activations (level 4) are from that.",
    "Lossy": "A bundle that is its checkpoint's and loses more than 0.5 nats a token in a mode: expect other and worse"
    " answers.",
    "Mean KL": "The mean of the modes' KL, each mode with the same weight.",
    "Same top token": "Share of judged tokens whose most likely token is the float model's.",
    "Signal-to-noise ratio": "Energy of the float32 values over that of the difference, in decibels: 20 dB is an error"
    " of a tenth of the values' size, 40 dB of a hundredth.",
    "Right answers": "Share of packaged questions answered exactly as expected, greedily; the line is Wilson's 95 %"
    " interval.",
    "Effect of an adapter": "What switching it on changes in the logits. Cosine and strength compare that change with the"
    " float model's: 1 and 1 are the same change.",
    "Neighbours": "Bundles of the same checkpoint that were made for this page by rounding with one setting for every"
    " layer, judged on the same questions.",
    "Predicted": "What the planner says of other sizes: losses of single layers added up, as far off as they were for"
    " the plan that was chosen. Of the weights alone, on its own questions: compare it with itself.",
}
