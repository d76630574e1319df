package org.palmtop.core.engine;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.Json;

/** Generation options of one answer. Setters return the object itself. */
public final class GenerationOptions {
    private static final int UNTIL_THE_CONTEXT_IS_FULL = 1 << 20;
    // Null for what the bundle says, and where that is silent for the value of the getter.
    private Integer maxTokens;
    private Double temperature;
    private Integer topK;
    private Double topP;
    private Double minP;
    private Double repetitionPenalty;
    private Long seed;
    private List<String> stop = Collections.emptyList();

    /**
     * Return a copy in which options that were not chosen have the bundle's values, or else the getter's default.
     *
     * @param own {@code processor.text.generation}.
     */
    public GenerationOptions or(Map<String, Double> own) {
        GenerationOptions all = new GenerationOptions();
        Double tokens = own.get("max_tokens");
        Double most = own.get("top_k");
        all.maxTokens = maxTokens != null || tokens == null ? maxTokens : Integer.valueOf(tokens.intValue());
        all.temperature = temperature != null ? temperature : own.get("temperature");
        all.topK = topK != null || most == null ? topK : Integer.valueOf(most.intValue());
        all.topP = topP != null ? topP : own.get("top_p");
        all.minP = minP != null ? minP : own.get("min_p");
        all.repetitionPenalty = repetitionPenalty != null ? repetitionPenalty : own.get("repetition_penalty");
        all.seed = seed;
        all.stop = stop;
        return all;
    }

    public int maxTokens() {
        return maxTokens == null ? UNTIL_THE_CONTEXT_IS_FULL : maxTokens;
    }

    /** Longest answer, in tokens; from 1. */
    public GenerationOptions maxTokens(int value) {
        check("max_tokens", value, value >= 1, "at least 1, a whole number");
        maxTokens = value;
        return this;
    }

    public double temperature() {
        return temperature == null ? 0 : temperature;
    }

    /** 0 takes the most probable token each time; 1 samples from the model's own distribution. */
    public GenerationOptions temperature(double value) {
        check("temperature", value, value >= 0 && value < Double.POSITIVE_INFINITY, "0 or more");
        temperature = value;
        return this;
    }

    public int topK() {
        return topK == null ? 0 : topK;
    }

    /** Sample only from this many most probable tokens; 0 for all. */
    public GenerationOptions topK(int value) {
        check("top_k", value, value >= 0, "0 or more, a whole number");
        topK = value;
        return this;
    }

    public double topP() {
        return topP == null ? 1 : topP;
    }

    /** Sample only from the fewest tokens whose probabilities reach this sum. */
    public GenerationOptions topP(double value) {
        check("top_p", value, value > 0 && value <= 1, "above 0, at most 1");
        topP = value;
        return this;
    }

    public double minP() {
        return minP == null ? 0 : minP;
    }

    /** Sample only from tokens whose probability is at least this share of the most probable one's; 0 for all. */
    public GenerationOptions minP(double value) {
        check("min_p", value, value >= 0 && value < Double.POSITIVE_INFINITY, "0 or more");
        check("min_p", value, value <= 1, "0 to 1");
        minP = value;
        return this;
    }

    public double repetitionPenalty() {
        return repetitionPenalty == null ? 1 : repetitionPenalty;
    }

    /** Above 1 makes tokens that the sequence already holds less probable. */
    public GenerationOptions repetitionPenalty(double value) {
        check("repetition_penalty", value, value > 0 && value < Double.POSITIVE_INFINITY, "above 0");
        repetitionPenalty = value;
        return this;
    }

    /** Null draws one from the operating system. */
    public Long seed() {
        return seed;
    }

    /** Seed of the sampler; equal seeds give equal answers on the phone (Python's generator differs). */
    public GenerationOptions seed(Long value) {
        check("seed", value, value == null || value >= 0, "0 or more, a whole number");
        seed = value;
        return this;
    }

    public List<String> stop() {
        return stop;
    }

    /** The answer ends before the first of these strings. */
    public GenerationOptions stop(List<String> values) {
        for (String value : values) {
            check("stop", value, value != null && !value.isEmpty(), "non-empty strings in a tuple");
        }
        stop = Collections.unmodifiableList(new ArrayList<String>(values));
        return this;
    }

    private static void check(String name, Object value, boolean holds, String expected) {
        if (!holds) {
            throw PalmtopException.input(
                    "option " + name + ": found " + Json.brief(value) + ", expected " + expected);
        }
    }
}
