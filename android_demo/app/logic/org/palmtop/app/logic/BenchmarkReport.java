package org.palmtop.app.logic;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/** Results of a benchmark with device and versions, as text to share and as JSON. */
public final class BenchmarkReport {
    public final List<Benchmark.Row> rows;
    private final Map<String, String> about;
    public final ProcessMemory memory;

    /**
     * @param about phone, Android, app, model and runtime versions, in the order to be shown.
     * @param memory of the app's process, after the runs.
     */
    public BenchmarkReport(List<Benchmark.Row> rows, Map<String, String> about, ProcessMemory memory) {
        this.rows = new ArrayList<Benchmark.Row>(rows);
        this.about = new LinkedHashMap<String, String>(about);
        this.memory = memory;
    }

    /** Lines for a message or an issue: a Markdown table. */
    public String text() {
        StringBuilder text = new StringBuilder("palmtop benchmark, median of " + Benchmark.RUNS + " runs\n\n");
        for (Map.Entry<String, String> line : about.entrySet()) {
            text.append(line.getKey()).append(": ").append(line.getValue()).append('\n');
        }
        text.append("memory at most: ").append(Sizes.text(memory.peakBytes));
        text.append(" of ").append(Sizes.text(memory.availableBytes)).append("\n\n");
        text.append("| mode | prompt tokens | first token, s | tokens/s |\n|---|---|---|---|\n");
        for (Benchmark.Row row : rows) {
            text.append(String.format(
                    Locale.ROOT, "| %s | %d | %.3f | %s |%n", row.mode, row.promptTokens, row.ttftSeconds, speed(row)));
        }
        return text.toString();
    }

    /** "34.1", or "-" where no answer had two tokens. */
    public static String speed(Benchmark.Row row) {
        return row.tokensPerSecond > 0 ? String.format(Locale.ROOT, "%.1f", row.tokensPerSecond) : "-";
    }

    public String json() {
        Map<String, Object> map = new LinkedHashMap<String, Object>();
        map.put("schema", 1L);
        map.put("about", new LinkedHashMap<String, Object>(about));
        map.put("memory_bytes", memory.peakBytes);
        map.put("memory_available_bytes", memory.availableBytes);
        List<Object> list = new ArrayList<Object>();
        for (Benchmark.Row row : rows) {
            Map<String, Object> one = new LinkedHashMap<String, Object>();
            one.put("mode", row.mode);
            one.put("prompt_tokens", (long) row.promptTokens);
            one.put("answer_tokens", (long) row.answerTokens);
            one.put("ttft_s", row.ttftSeconds);
            one.put("tokens_per_s", row.tokensPerSecond);
            list.add(one);
        }
        map.put("modes", list);
        return JsonWriter.write(map) + "\n";
    }
}
